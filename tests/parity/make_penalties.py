"""What transformers' own generate() and warpers give under penalties and truncation, as JSON. Run by hand, or by
test_transformers_sampling.py where .venv-bench (make bench) is there:

    .venv-bench/bin/python tests/parity/make_penalties.py > tests/parity/fixtures/penalties.json

The models are the fixtures' (make_fixtures.py). Their padding token has the logit 0, which no penalty changes: that
transformers counts padding as said shows in no text.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

FIXTURES = Path(__file__).parent / "fixtures"
MODELS = ("glm-g4-bias-rope500", "glm4-g2-bias-rope1", "glm4-g1-nobias-rope1")
NEW_TOKENS = 12
BEAMS = {"num_beams": 3, "length_penalty": 1.0}
WAYS = {
    "greedy": {"repetition_penalty": 1.3},
    "greedy, much": {"repetition_penalty": 8.0},
    "greedy, wanted": {"repetition_penalty": 0.7},
    "greedy, least length": {"repetition_penalty": 1.5, "min_new_tokens": 9},
    "greedy, suppressed": {"suppress_tokens": list(range(8, 80, 3)), "repetition_penalty": 1.2},
    "greedy, first suppressed": {"begin_suppress_tokens": list(range(8, 80, 2))},
    "greedy, bad words": {"bad_words_ids": [[token] for token in range(9, 80, 4)]},
    "beams": {**BEAMS, "repetition_penalty": 1.3},
    "beams, much": {**BEAMS, "repetition_penalty": 3.0, "min_new_tokens": 9},
    "beams, wanted": {**BEAMS, "repetition_penalty": 0.7},
    "beams, suppressed": {**BEAMS, "suppress_tokens": list(range(8, 80, 3)), "repetition_penalty": 1.2},
}
TRUNCATIONS = [
    {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    for temperature in (1.0, 0.6, 1.7)
    for top_k, top_p, min_p in [
        (0, 1.0, 0.0),
        (5, 1.0, 0.0),
        (0, 0.8, 0.0),
        (0, 1.0, 0.1),
        (5, 0.8, 0.0),
        (20, 0.7, 0.0),
        (40, 0.95, 0.0),
        (20, 0.9, 0.15),
        (1, 0.5, 0.5),
        (1000, 0.3, 0.0),
    ]
]


def logits(row: int) -> np.ndarray:
    """[50] float32; row 2 has equal ones."""
    drawn = 2 * np.random.default_rng(row).standard_normal(50)
    return (np.round(drawn) if row == 2 else drawn).astype("float32")


def probabilities(row: int, temperature: float, top_k: int, top_p: float, min_p: float) -> list[float]:
    """What is drawn from, behind the warpers in the order of `_get_logits_processor`."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)] if temperature != 1.0 else [])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1.0 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    scores = warpers(None, torch.from_numpy(logits(row))[None])
    return [round(p, 6) for p in scores.softmax(-1)[0].tolist()]


def texts(name: str) -> dict[str, list[list[int]]]:
    model = AutoModelForCausalLM.from_pretrained(FIXTURES / name, attn_implementation="eager", dtype=torch.float32)
    arrays = load_file(FIXTURES / name / "reference.safetensors")
    prompt = {key: torch.from_numpy(arrays[f"prompt.{key}"].astype("int64")) for key in ("input_ids", "attention_mask")}
    settings = json.loads((FIXTURES / name / "reference.json").read_text())
    found = {}
    for way, options in WAYS.items():
        config = GenerationConfig(
            **options,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=settings["stop_token_ids"],
            pad_token_id=settings["pad_token_id"],
        )
        tokens = model.eval().generate(**prompt, generation_config=config)
        found[way] = tokens[:, prompt["input_ids"].shape[1] :].tolist()
    return found


def main() -> None:
    torch.manual_seed(0)
    golden = {
        "transformers": transformers.__version__,
        "ways": WAYS,
        "texts": {name: texts(name) for name in MODELS},
        "truncations": TRUNCATIONS,
        "probabilities": [[probabilities(row, **options) for row in range(4)] for options in TRUNCATIONS],
    }
    json.dump(golden, sys.stdout)
    print()


if __name__ == "__main__":
    main()

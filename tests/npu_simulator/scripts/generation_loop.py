"""Generates eagerly on the CPU and on the simulated NPU. Prints tokens, scores and the steps between host syncs."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from pathlib import Path

import paddle

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tiny_glm import make_likely, small_prompt, tiny_model

from glm import GenerationConfig
from glm.generation.search import StopTokens
from glm.model.tracing import sync_interval

CONFIGS = [
    GenerationConfig(11),
    GenerationConfig(11, do_sample=True, seed=3),
    GenerationConfig(11, num_beams=3, no_repeat_ngram_size=2),
]


def generate() -> dict:
    model, prompt = tiny_model(seed=4, spread=0.4, vocab_size=12), small_prompt(12, 6, seed=1)
    make_likely(model.model.embed_tokens, model.model.norm, 1, 2.0)
    pairs = [model.generate(prompt, config, StopTokens((1,), 3)) for config in CONFIGS]
    return {"tokens": [tokens.tolist() for tokens, _ in pairs], "scores": [scores.tolist() for _, scores in pairs]}


if __name__ == "__main__":
    found, intervals = {}, {}
    for device in ("cpu", "npu"):
        paddle.set_device(device)
        found[device], intervals[device] = generate(), sync_interval()
    print(json.dumps(found | {"intervals": intervals}))

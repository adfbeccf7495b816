"""Penalties and truncation against transformers' generate() and warpers: golden numbers, and the library itself."""

import json
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import paddle
import pytest
from fixture_files import FIXTURES, load
from plain_search import kept_probabilities

from glm import GenerationConfig, GLMForCausalLM
from glm.encoding.batches import TextPositions, prompt_batch
from glm.engine.logits import filtered_tokens
from glm.generation.config_json import GenerationFile
from glm.generation.search import Prompt, StopTokens, filter_logits

PEERS = Path(__file__).parents[2] / ".venv-bench" / "bin" / "python"  # of `make bench`
GOLDEN = json.loads((FIXTURES / "penalties.json").read_text())
MODELS, WAYS = tuple(GOLDEN["texts"]), GOLDEN["ways"]


@cache
def opened(name: str):
    model = GLMForCausalLM.from_pretrained(FIXTURES / name, dtype="float32")
    model.eval()
    return model


def config_of(way: str, ends: list[int]) -> GenerationConfig:
    """By way of generation_config.json, whose names these are."""
    return GenerationConfig(12, gnmt_length=False, **GenerationFile(WAYS[way] | {"eos_token_id": ends}).options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_texts_are_those_of_transformers(name, way):
    fixture = load(name)
    ids, mask = fixture.arrays["prompt.input_ids"], fixture.arrays["prompt.attention_mask"]
    pad, ends = fixture.settings["pad_token_id"], fixture.settings["stop_token_ids"]
    prompts = [row[seen == 1].tolist() for row, seen in zip(ids, mask, strict=True)]
    batch = Prompt.of(prompt_batch(prompts, TextPositions(), pad))
    tokens, _ = opened(name).generate(batch, config_of(way, ends), StopTokens(tuple(ends), pad))
    assert [cut(row, ends) for row in tokens.tolist()] == [cut(row, ends) for row in GOLDEN["texts"][name][way]]


def cut(row: list[int], ends: list[int]) -> list[int]:
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]


def test_the_ways_of_transformers_differ():
    for texts in GOLDEN["texts"].values():
        assert len({str(rows) for rows in texts.values()}) > 8


def logits(row: int) -> np.ndarray:
    """As make_penalties.py draws them."""
    drawn = 2 * np.random.default_rng(row).standard_normal(50)
    return (np.round(drawn) if row == 2 else drawn).astype("float32")


def tensor_probabilities(scaled: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    options = (paddle.to_tensor(x, dtype=t) for x, t in ((top_k, "int64"), (top_p, "float32"), (min_p, "float32")))
    kept = filter_logits(paddle.to_tensor(scaled)[None, None], *options)
    return paddle.nn.functional.softmax(kept, axis=-1).numpy()[0, 0]


def engine_probabilities(scaled: np.ndarray, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    kept = filtered_tokens(scaled, top_k, top_p, min_p)
    found = np.zeros(scaled.shape)
    found[kept] = np.exp(scaled[kept].astype("float64"))
    return found / found.sum()


WAYS_TO_TRUNCATE = {"tensors": tensor_probabilities, "engine": engine_probabilities, "plain": kept_probabilities}


@pytest.mark.parametrize("probabilities", WAYS_TO_TRUNCATE.values(), ids=WAYS_TO_TRUNCATE)
def test_probabilities_are_those_of_the_warpers(probabilities):
    """Row 2 has equal logits: a nucleus that ends among equal ones takes them all here, and some there."""
    together = 0
    for options, rows in zip(GOLDEN["truncations"], GOLDEN["probabilities"], strict=True):
        options = dict(options)
        temperature = options.pop("temperature")
        together += 0 < options["top_k"] < 50 and options["top_p"] < 1
        for row, wanted in enumerate(rows):
            if row == 2 and options["top_p"] < 1:
                continue
            found = probabilities(logits(row) / np.float32(temperature), **options)
            assert found == pytest.approx(np.array(wanted), abs=2e-6), (options, row)
    assert together == 15


def test_a_nucleus_of_what_top_k_left():
    """parity.md's case: over the whole vocabulary the first token has 0.44, of the best two 0.72."""
    scaled = np.log(np.array([0.44, 0.17, 0.15, 0.13, 0.11], dtype="float32"))
    for probabilities in WAYS_TO_TRUNCATE.values():
        assert probabilities(scaled, top_k=2, top_p=0.7, min_p=0.0) == pytest.approx([1, 0, 0, 0, 0], abs=1e-9)


@pytest.mark.skipif(not PEERS.is_file(), reason=f"no {PEERS}: `make bench` installs transformers there")
@pytest.mark.slow
def test_the_golden_numbers_are_the_librarys():
    """Made anew by the installed transformers, in an environment of its own."""
    command = [str(PEERS), str(Path(__file__).with_name("make_penalties.py"))]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(made.stdout)
    assert found["texts"] == GOLDEN["texts"]
    assert np.allclose(found["probabilities"], GOLDEN["probabilities"], atol=2e-6)

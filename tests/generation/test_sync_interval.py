"""The loop of a device, which syncs with the host every few steps, gives what a sync at every step gives."""

import json

import numpy as np
import paddle
import pytest
from tiny_glm import make_likely, small_prompt, tiny_model

from glm import GenerationConfig
from glm.generation.search import StopTokens
from glm.model import tracing
from tests.npu_simulator.launching import needs_compiler, run_alone

END, OTHER_END, PAD, ROWS, LENGTH = 1, 2, 3, 6, 21
STOP = StopTokens((END, OTHER_END), PAD)
SEARCHES = {
    "greedy": {},
    "greedy by rules": {"no_repeat_ngram_size": 2, "min_length": 1},
    "sampling": {"do_sample": True, "seed": 5, "top_k": 6, "temperature": 1.3},
    "beams": {"num_beams": 3, "length_penalty": 0.7},
    "beams by rules": {"num_beams": 2, "length_penalty": 1.5, "no_repeat_ngram_size": 2, "gnmt_length": False},
    "drawn beams": {"num_beams": 3, "do_sample": True, "seed": 2},
}


@pytest.fixture(scope="module")
def model():
    """Its rows end at different steps, and it has positions for `LENGTH` tokens, no more."""
    prompt = small_prompt(12, ROWS, seed=1)
    last = int(prompt.position_ids.numpy().max())
    model = tiny_model(seed=4, spread=0.4, vocab_size=12, max_position_embeddings=max(last, LENGTH))
    for token in (END, OTHER_END):
        make_likely(model.model.embed_tokens, model.model.norm, token, 2.0)
    return model


@pytest.fixture
def calls(model, monkeypatch):
    """Decoded steps, and reads of a tensor by the host."""
    seen = {"steps": 0, "reads": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            seen[name] += 1
            return function(*args, **kwargs)

        return call

    for method in ("begin", "decode"):  # the prompt's reading is the first step
        monkeypatch.setattr(model, method, counted("steps", getattr(model, method)))
    for method in ("numpy", "item"):  # int(), bool() and the like go through them
        monkeypatch.setattr(paddle.Tensor, method, counted("reads", getattr(paddle.Tensor, method)))
    return seen


def sync_every(monkeypatch, steps: int) -> None:
    monkeypatch.setattr(tracing, "sync_interval", lambda: steps)


@pytest.mark.parametrize("length", [1, 5, 8, LENGTH])
@pytest.mark.parametrize("search", SEARCHES)
def test_tokens_and_scores_are_those_of_a_look_at_every_step(model, monkeypatch, search, length):
    prompt, config = small_prompt(12, ROWS, seed=1), GenerationConfig(length, **SEARCHES[search])
    found = {}
    for steps in (1, 3, 8):
        sync_every(monkeypatch, steps)
        found[steps] = [x.numpy() for x in model.generate(prompt, config, STOP)]
    for steps in (3, 8):
        for ours, wanted in zip(found[steps], found[1], strict=True):
            assert np.array_equal(ours, wanted)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_rows_end_before_the_last_look(model, monkeypatch, calls, options):
    """What the test above compares: more steps than are needed, rows of unequal length."""
    sync_every(monkeypatch, 8)
    tokens, _ = model.generate(small_prompt(12, ROWS, seed=1), GenerationConfig(LENGTH, **options), STOP)
    ends = {tuple(np.isin(row, (END, OTHER_END)).nonzero()[0]) for row in tokens.numpy()}
    assert len(ends) > 1
    assert calls["steps"] > tokens.shape[1]


@pytest.mark.parametrize("search", SEARCHES)
def test_the_host_reads_once_in_eight_steps(model, monkeypatch, calls, search):
    """Options once before the loop, then every eight steps; never beyond the greatest length."""
    config, prompt = GenerationConfig(LENGTH, **SEARCHES[search]), small_prompt(12, ROWS, seed=1)
    reads = {}
    for steps in (1, 8):
        sync_every(monkeypatch, steps)
        calls.update(steps=0, reads=0)
        model.generate(prompt, config, StopTokens((), PAD))
        assert calls["steps"] == LENGTH
        reads[steps] = calls["reads"]
    options = 5  # beams twice, sampling, n-grams, length
    assert reads == {1: options + 1 + LENGTH, 8: options + 1 + 3}


@needs_compiler
def test_the_simulated_npu():
    done = run_alone("generation_loop.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["intervals"] == {"cpu": 1, "npu": 8}
    assert found["npu"]["tokens"] == found["cpu"]["tokens"]
    for ours, wanted in zip(found["npu"]["scores"], found["cpu"]["scores"], strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4)

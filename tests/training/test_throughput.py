"""Tokens per second and MFU: arithmetic of a token counted by hand, a peak that is a rate."""

import pytest

from glm.config.fields import PlainConfig
from glm.training.throughput import Throughput, flops_per_token, measured_peak

SMALL = {
    "family": "glm4-remote",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 20,
}


def test_arithmetic_of_a_token():
    """Two for each weight that is multiplied, and twice as much backward; scores and values over half the columns."""
    attention, mlp, head = 16 * (32 + 16 + 16) + 32 * 16, 3 * 16 * 20, 100 * 16
    seen = 3 * 4 * 8 * 10  # layers · heads · head size · columns
    wanted = 6 * (3 * (attention + mlp) + head) + 3 * 2 * 2 * seen / 2
    assert flops_per_token(PlainConfig(**SMALL, tie_word_embeddings=False), 10) == wanted
    assert flops_per_token(PlainConfig(**SMALL | {"family": "glm4-0414"}, tie_word_embeddings=True), 10) == wanted


def test_of_glm_4_9b():
    """6 times its 9.4 · 10⁹ parameters but the 0.6 · 10⁹ of the embedding, and attention."""
    config = PlainConfig.preset("glm-4-9b")
    assert flops_per_token(config, 8192) == pytest.approx(6 * 8.779e9 + 6 * 40 * 4096 * 8192, rel=1e-4)


def test_figures():
    figures = Throughput(length=32, flops=1e6, peak=1e9, devices=4).figures(samples_per_second=10.0)
    assert figures == {"tokens_per_second": 320.0, "mfu": 0.08}


def test_the_peak_is_measured():
    assert 1e8 < measured_peak("float32") < 1e14

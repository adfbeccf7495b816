"""What the tests share. `glm` comes first everywhere: it tunes the CPU before Paddle starts."""

import pytest

import glm  # noqa: F401
from glm.datasets.encoding import GLMEncoder
from glm.loading import BUNDLED
from glm.tokenizers import GLMTokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return GLMTokenizer.from_pretrained(BUNDLED / "glm-tiny-chinese")


@pytest.fixture(scope="session")
def encoder(tokenizer):
    return GLMEncoder(tokenizer, src_length=16, tgt_length=12)

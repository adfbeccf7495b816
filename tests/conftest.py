"""What the tests share. `glm` comes first everywhere: it tunes the CPU before Paddle starts."""

from pathlib import Path

import pytest

import glm  # noqa: F401
from glm.datasets.encoding import GLMEncoder
from glm.tokenizers import GLMTokenizer

TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "glm-tiny-chinese"


@pytest.fixture(scope="session")
def tokenizer():
    return GLMTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="session")
def encoder(tokenizer):
    return GLMEncoder(tokenizer, src_length=16, tgt_length=12)


@pytest.fixture(scope="session")
def chat_models(tmp_path_factory) -> dict[str, Path]:
    """Directories of tiny random models, by the kind of their tokenizer."""
    from tiny_chat import KINDS, write_chat_model

    folder = tmp_path_factory.mktemp("chat-models")
    return {kind: write_chat_model(kind, folder / kind) for kind in KINDS}

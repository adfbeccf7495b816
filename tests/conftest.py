"""What the tests share. `glm` comes first everywhere: it tunes the CPU before Paddle starts."""

from pathlib import Path

import pytest

import glm
from glm import kernels
from glm.encoding.processor import GLMProcessor
from glm.tokenizers import GLMTokenizer
from tests import tiers

glm.tune()  # as the scripts
TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "glm-tiny-chinese"

tiers.refuse_processes()


def pytest_sessionstart(session):
    """Compiles the own kernels, if they can be, before a test that may start no process wants them."""
    has_workers = getattr(session.config.option, "numprocesses", None) and not hasattr(session.config, "workerinput")
    if not has_workers:
        kernels.fault()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks before `-m` chooses."""
    for item in items:
        if tiers.starts_processes(item):
            item.add_marker("process")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A test that is not marked starts no process, whatever is run."""
    tiers.watch(item)
    try:
        return (yield)
    finally:
        tiers.watch(None)


@pytest.fixture
def without_kernels(monkeypatch):
    """As on a machine without a compiler (glm/kernels/)."""
    monkeypatch.setattr("glm.kernels.library._loaded", lambda: (None, "a test switches them off"))


@pytest.fixture(scope="session")
def tokenizer():
    return GLMTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="session")
def processor(tokenizer):
    return GLMProcessor(tokenizer, src_length=16, tgt_length=12)


@pytest.fixture(scope="session")
def chat_models(tmp_path_factory) -> dict[str, Path]:
    """Directories of tiny random models, by the kind of their tokenizer."""
    from tiny_chat import KINDS, write_chat_model

    folder = tmp_path_factory.mktemp("chat-models")
    return {kind: write_chat_model(kind, folder / kind) for kind in KINDS}

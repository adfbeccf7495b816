"""Tiny random models of the chat families, as directories: weights, config.json, bundled vocabulary."""

import json
import shutil
from pathlib import Path

from tiny_glm import tiny_model

from glm import GLMForCausalLM
from glm.encoding.processor import ChatProcessor
from glm.generation.config_json import NAME
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
# Tokenizer kind → what its tiny model is.
SHAPES = {
    "chatglm": {"family": "chatglm", "vocab_size": 800},
    "chatglm2": {"family": "chatglm2", "vocab_size": 832, "num_key_value_heads": 2, "attention_bias": True},
    "chatglm3": {"family": "chatglm2", "vocab_size": 832, "num_key_value_heads": 2, "attention_bias": True},
    "glm4": {"family": "glm4-remote", "vocab_size": 768, "num_key_value_heads": 2, "attention_bias": True},
    "glm4-0414": {"family": "glm4-0414", "vocab_size": 768, "num_key_value_heads": 2, "attention_bias": False},
}
KINDS = tuple(SHAPES)
# One model has a file that says what its tokenizer says anyway.
GENERATION_FILES = {"glm4-0414": {"eos_token_id": [754, 761, 763], "pad_token_id": 754}}


def vocabulary(kind: str) -> Path:
    return DATA / f"{kind}-tiny"


def tokenizer_of(kind: str):
    return GLMTokenizer.from_pretrained(vocabulary(kind))


def processor_of_tiny(kind: str, src_length: int = 48, tgt_length: int = 12, **options) -> ChatProcessor:
    return ChatProcessor(tokenizer_of(kind), src_length, tgt_length, **options)


def chat_model(kind: str) -> GLMForCausalLM:
    return tiny_model(seed=3, spread=0.4, max_position_embeddings=512, **SHAPES[kind])


def write_chat_model(kind: str, directory: Path) -> Path:
    """A directory that the scripts take."""
    _write(chat_model(kind), vocabulary(kind), directory)
    if kind in GENERATION_FILES:
        (directory / NAME).write_text(json.dumps(GENERATION_FILES[kind]), encoding="utf-8")
    return directory


def write_thinking_model(directory: Path) -> Path:
    """A model that can think and answer at once: GLM-4-0414's network under GLM-4.5's vocabulary and template."""
    shape = SHAPES["glm4-0414"] | {"vocab_size": 790}
    _write(tiny_model(seed=3, spread=0.4, max_position_embeddings=512, **shape), DATA / "glm45-tiny", directory)
    return directory


def _write(model: GLMForCausalLM, vocabulary: Path, directory: Path) -> None:
    model.save_pretrained(directory)
    shutil.copytree(vocabulary, directory, dirs_exist_ok=True)

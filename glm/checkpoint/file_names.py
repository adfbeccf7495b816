"""What weight files are called, which of them is read, and which belong together."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from glm.pickles.megatron import TRACKER, checkpoint_files

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
# Layers that predict the token after the next, where they have a file of their own, as GLM-4.7's: beside safetensors.
PREDICTOR_NAME = "mtp.safetensors"
# In order of preference.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "model_state.pdparams.index.json",
    "model_state.pdparams",
)
# What a whole model is written to.
FILE_NAMES = {"safetensors": "model.safetensors", "pdparams": "model_state.pdparams"}
INDEX_NAME = "model.safetensors.index.json"
PART_NAME = "model-{:05d}-of-{:05d}.safetensors"  # counted from 1, as Hugging Face does
SHARD_NAME = "model_state.tp{:02d}.pdparams"  # PaddleNLP's, by tensor-parallel rank
# By tensor-parallel rank, by pipeline stage, or by both: a number is left out where there is only one.
SHARD_PATTERN = re.compile(r"model_state\.(?:tp(?P<tp>\d{2,})(?:_pp(?P<stage>\d{2,}))?|pp(?P<alone>\d{2,}))\.pdparams")
PART_PATTERN = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PARTS = {
    "safetensors": [PART_PATTERN],
    "pdparams": [SHARD_PATTERN, re.compile(r"model_state-\d{5}-of-\d{5}\.pdparams")],
}
_TORCH_PART = re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin")
NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")


def shard_rank(name: str) -> tuple[int, int] | None:
    """(tensor-parallel rank, pipeline stage) of PaddleNLP's file of this name; None for other files."""
    match = SHARD_PATTERN.fullmatch(name)
    return (int(match["tp"] or 0), int(match["stage"] or match["alone"] or 0)) if match else None


def part_names(weight_format: str, parts: int) -> list[str]:
    """What the parts of a whole model are called in one of the formats of `FILE_NAMES`; one part has no number."""
    stem, _, suffix = FILE_NAMES[weight_format].rpartition(".")
    if parts == 1:
        return [FILE_NAMES[weight_format]]
    return [f"{stem}-{part + 1:05d}-of-{parts:05d}.{suffix}" for part in range(parts)]


def is_weights(name: str) -> bool:
    """Whether a file of this name belongs to a model's weights, in any format, indexes included."""
    patterns = [*_PARTS["safetensors"], *_PARTS["pdparams"], _TORCH_PART]
    return name in (*WEIGHT_FILES, TRACKER, PREDICTOR_NAME) or any(pattern.fullmatch(name) for pattern in patterns)


def parts_there(names: Iterable[str]) -> tuple[str, list[str], list[str]] | None:
    """What is there of a model in parts.

    Returns:
        What the index would be called, the parts that are there in order, and those that are missing; None where no
        part is there. Of several models the first in the order of `WEIGHT_FILES`.
    """
    there = sorted(name for name in names if NUMBERED.fullmatch(name) and is_weights(name))
    for index in (name for name in WEIGHT_FILES if name.endswith(".index.json")):
        stem, _, suffix = index.removesuffix(".index.json").rpartition(".")
        own = [name for name in there if name.startswith(f"{stem}-") and name.endswith(f".{suffix}")]
        if own:
            count = max(int(NUMBERED.fullmatch(name)[3]) for name in own)
            wanted = [f"{stem}-{part + 1:05d}-of-{count:05d}.{suffix}" for part in range(count)]
            return index, own, [name for name in wanted if name not in own]
    return None


def weight_names(directory: Path) -> list[str]:
    """The weight files in a directory, relative to it, in the order in which none that is removed outlives its parts.

    Indexes are first. Megatron's lie in folders of their own.
    """
    if not directory.is_dir():
        return []
    names = {path.name for path in directory.iterdir() if is_weights(path.name)} | set(checkpoint_files(directory))
    return sorted(names, key=lambda name: (not name.endswith((".json", TRACKER)), name))


def remove_weight_file(directory: Path, name: str) -> None:
    """Remove a file of `weight_names`, and the folders of Megatron's that are empty then."""
    (directory / name).unlink(missing_ok=True)
    for folder in [directory / parent for parent in Path(name).parents][:-1]:
        with suppress(OSError):  # it holds something else
            folder.rmdir()


def remove_weights(directory: Path, weight_format: str, keep: frozenset[str] | set[str] = frozenset()) -> None:
    """Remove the weights that a directory holds in one of the formats of `FILE_NAMES`, however they are divided.

    An index goes first, so that at no time one is there whose parts are not.

    Args:
        keep: names of the files that stay.
    """
    name = FILE_NAMES[weight_format]
    there = sorted(path.name for path in directory.iterdir())
    parts = [file for file in there if any(pattern.fullmatch(file) for pattern in _PARTS[weight_format])]
    for file in (f"{name}.index.json", name, *parts):
        if file not in keep:
            (directory / file).unlink(missing_ok=True)

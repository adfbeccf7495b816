"""The golden fixtures on disk, and the inputs that both generators draw. README.md in fixtures/ says what is in them.

Needs numpy and safetensors only.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).parent / "fixtures"
IGNORED = -100
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Fixture:
    """A tiny model with random weights, and what a reference implementation made of it.

    Attributes:
        directory: holds config.json and model.safetensors, as a Hugging Face directory does.
        config: config.json.
        weights: float32, the original names, linear weights [out, in].
        arrays: "case.name" → inputs and results; integers are int64.
        settings: how the results came about: versions, generation options, optimizer.
    """

    directory: Path
    config: dict[str, Any]
    weights: Arrays
    arrays: Arrays
    settings: dict[str, Any]

    def case(self, name: str) -> Arrays:
        """The arrays of one case, without its name in front."""
        return {key[len(name) + 1 :]: value for key, value in self.arrays.items() if key.startswith(name + ".")}


def names() -> list[str]:
    """All fixtures, sorted."""
    return sorted(path.parent.name for path in FIXTURES.glob("*/reference.json"))


def load(name: str) -> Fixture:
    directory = FIXTURES / name
    arrays = load_file(directory / "reference.safetensors")
    return Fixture(
        directory,
        json.loads((directory / "config.json").read_text(encoding="utf-8")),
        load_file(directory / "model.safetensors"),
        {key: value.astype("int64") if value.dtype == np.int32 else value for key, value in arrays.items()},
        json.loads((directory / "reference.json").read_text(encoding="utf-8")),
    )


def save(name: str, config: dict, weights: Arrays, arrays: Arrays, settings: dict) -> None:
    """Writes a fixture; integers are stored in 32 bits."""
    directory = FIXTURES / name
    directory.mkdir(parents=True, exist_ok=True)
    compact = {
        key: np.ascontiguousarray(value, dtype="int32" if value.dtype.kind in "iub" else "float32")
        for key, value in arrays.items()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    save_file(compact, directory / "reference.safetensors")
    for file, content in (("config.json", config), ("reference.json", settings)):
        (directory / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> Arrays:
    """Every weight random, biases and norms too; scores and logits come out large enough to tell variants apart.

    Args:
        shapes: shapes by name, linear weights [out, in].
    """
    draw = np.random.default_rng(seed)
    return {name: _random_weight(draw, name, shape) for name, shape in sorted(shapes.items())}


def _random_weight(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = draw.standard_normal(shape)
    if "embed" in name:
        return (0.1 * values).astype("float32")  # small, so that the norms' epsilon counts
    if name.endswith("e_score_correction_bias"):
        return (7 + 0.1 * values).astype("float32")  # as GLM-4.5's, where bfloat16 has steps of 0.03
    if name.endswith("bias"):
        return (0.3 * values).astype("float32")
    if len(shape) == 1:
        return (1 + 0.3 * values).astype("float32")
    return (1.5 * values / np.sqrt(shape[-1])).astype("float32")


def token_rows(draw: np.random.Generator, lengths: list[int], first: int, vocab: int) -> list[list[int]]:
    """Rows of random ids of the given lengths, none below `first`."""
    return [draw.integers(first, vocab, length).tolist() for length in lengths]


def padded(rows: list[list[int]], pad: int, side: str, width: int | None = None) -> np.ndarray:
    """Rows of unequal length as one array [B, T], filled up with `pad` on the left or right."""
    width = width or max(map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    return np.array([gap + row if side == "left" else row + gap for row, gap in zip(rows, fill, strict=True)])


def causal_batch(rows: list[list[int]], pad: int, side: str, prompt: int = 2) -> Arrays:
    """A batch of a causal model, each array [B, T].

    Args:
        prompt: so many leading tokens of a row are no labels.
    Returns:
        input_ids, attention_mask, position_ids, and labels in transformers' alignment: labels[t] is input_ids[t] or
        IGNORED, and the model predicts it at column t - 1.
    """
    mask = padded([[1] * len(row) for row in rows], 0, side)
    labels = padded([[IGNORED] * prompt + row[prompt:] for row in rows], IGNORED, side)
    return {
        "input_ids": padded(rows, pad, side),
        "attention_mask": mask,
        "position_ids": np.maximum(mask.cumsum(axis=1) - 1, 0),
        "labels": labels,
    }


def hide_padding(logits: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """Logits [B, T, V] with zeros where the input is padding: what a model says there is not defined."""
    return np.where(attention_mask[..., None] == 1, logits, 0)


def under(case: str, arrays: Arrays) -> Arrays:
    """The arrays with the case's name in front of theirs."""
    return {f"{case}.{name}": np.asarray(value) for name, value in arrays.items()}

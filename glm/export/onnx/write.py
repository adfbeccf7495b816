"""Writes a model's step graph and its weights, one weight in memory at a time."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from glm.export.files import FORMAT_VERSION, REQUIRED, Manifest
from glm.export.onnx.graph import Graph
from glm.export.onnx.step_graph import step_graph
from glm.export.onnx.weights import Weights
from glm.export.writing import BAR_DELAY, write_export

Tensors = Iterable[tuple[str, np.ndarray]]


def write_step_graph(config: Any, weights: Tensors, stored: Weights, prefix: Path) -> int:
    """Writes `prefix`.onnx and `prefix`.onnx.data; memory holds one weight at a time, and its quantized rows.

    Args:
        config: a GLMConfig.
        weights: names and arrays as `Checkpoint.tensors` yields them, of a model without LoRA adapters.
        stored: how matrices are stored (`weights_of`).
        prefix: path and common beginning of the files' names.
    Returns:
        How many numbers the model has.
    Raises:
        GLMError: the weights do not fit the configuration. OSError: the disk is full.
    """
    graph = step_graph(config, stored)
    _write(graph, weights, prefix)
    return graph.data.parameters


def export_step_graph(
    config: Any,
    weights: Tensors,
    stored: Weights,
    prefix: Path,
    *,
    source: str,
    text: Callable[[Path], Any],
) -> Manifest:
    """`write_step_graph`, with all that a runtime needs beside it, in the place of an earlier export.

    Args:
        source: the exported model, as it was named.
        text: writes configuration and tokenizer into a directory.
    Raises:
        GLMError: as `write_step_graph` and `glm.export.writing.write_export`.
    """
    graph = step_graph(config, stored)
    draft = Manifest(
        format_version=FORMAT_VERSION,
        format="onnx",
        source=source,
        dtype="float32",
        weights=stored.kind,
        block_size=stored.block_size,
        symmetric=stored.symmetric,
        head_bits=stored.head_bits,
        vocab_size=config.vocab_size,
        max_position=config.max_position,
        parameters=graph.data.parameters,
        files={},
        opset=stored.operators.opset if stored.operators.standard else None,
        gives_columns=bool(config.kv_lora_rank),
    )
    return write_export(prefix, draft, graph.data.size, text, lambda staged: _write(graph, weights, staged))


def _write(graph: Graph, weights: Tensors, prefix: Path) -> None:
    model, data = (prefix.with_name(f"{prefix.name}{suffix}") for suffix in REQUIRED["onnx"])
    with tqdm(
        total=graph.data.parameters, desc="export", unit=" weights", unit_scale=True, delay=BAR_DELAY, leave=False
    ) as bar:
        graph.data.write(data, _counted(weights, bar))
    model.write_bytes(graph.model(data.name).SerializeToString())


def _counted(weights: Tensors, bar: tqdm) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in weights:
        size = array.size
        yield name, array
        del array  # before the next one is read
        bar.update(size)

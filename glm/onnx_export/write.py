"""Writes a model's step graph, its weights and the manifest, each whole or not at all."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glm.checkpoint.atomic import atomic_file, atomic_write
from glm.onnx_export.manifest import (
    FORMAT_VERSION,
    Manifest,
    describe_files,
    graph_path,
    manifest_path,
    weights_path,
    write_manifest,
)
from glm.onnx_export.step_graph import step_graph
from glm.onnx_export.weights import Weights


def write_step_graph(config: Any, weights: Iterable[tuple[str, np.ndarray]], stored: Weights, prefix: Path) -> int:
    """Writes `prefix`.onnx and `prefix`.onnx.data; memory holds one weight at a time, and its quantized rows.

    Args:
        config: a GLMConfig.
        weights: names and arrays as `Checkpoint.tensors` yields them, of a model without LoRA adapters.
        stored: how matrices are stored (`weights_of`).
        prefix: path and common beginning of the files' names.
    Returns:
        How many numbers the model has.
    Raises:
        GLMError: the weights do not fit the configuration, or the disk is full; earlier files are then untouched.
    """
    graph, data = step_graph(config, stored), weights_path(prefix)
    with atomic_write(graph_path(prefix)) as file, atomic_file(data, graph.data.size) as path:
        parameters = graph.data.write(path, weights)
        file.write(graph.model(data.name).SerializeToString())
        # From here on an earlier export's manifest would be wrong.
        manifest_path(prefix).unlink(missing_ok=True)
    return parameters


def write_export(
    config: Any,
    weights: Iterable[tuple[str, np.ndarray]],
    stored: Weights,
    prefix: Path,
    *,
    source: str,
    others: Sequence[str] = (),
) -> Manifest:
    """`write_step_graph`, and `prefix`.onnx.json, which describes the export.

    Args:
        source: the exported model, as it was named.
        others: further files in the directory that belong to the export: configuration, tokenizer.
    Raises:
        GLMError: as `write_step_graph`.
    """
    parameters = write_step_graph(config, weights, stored, prefix)
    files = [graph_path(prefix), weights_path(prefix), *(prefix.with_name(name) for name in others)]
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        weights=stored.kind,
        block_size=stored.block_size,
        symmetric=stored.symmetric,
        vocab_size=config.vocab_size,
        max_position=config.max_position_embeddings,
        parameters=parameters,
        files=describe_files(files),
    )
    write_manifest(prefix, manifest)
    return manifest

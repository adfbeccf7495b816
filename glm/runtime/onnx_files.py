"""Where ONNX Runtime finds the weights of a graph, which it wants beside the graph itself: links are followed here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


def graph_of(model_file: Path, options: Any) -> str | bytes:
    """What an InferenceSession opens: the path, or the graph's bytes where `<model_file>.data` links elsewhere.

    The weights are mapped where they lie, not copied.

    Args:
        options: SessionOptions, which are told the folder of the weights.
    """
    weights = model_file.with_name(f"{model_file.name}.data")
    real = weights.resolve()
    if not weights.is_symlink() and not model_file.is_symlink():
        return str(model_file)
    options.add_session_config_entry(FOLDER_OPTION, str(real.parent))
    return model_file.read_bytes() if real.name == weights.name else graph_with_weights_at(model_file, real.name)


def graph_with_weights_at(model_file: Path, location: str) -> bytes:
    """A graph's bytes, its weights in the file of that name."""
    import onnx

    model = onnx.load(model_file, load_external_data=False)
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString()


def _tensors(graph: Any) -> Iterator[Any]:
    """Those of the parts of an If as well."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _tensors(attribute.g)

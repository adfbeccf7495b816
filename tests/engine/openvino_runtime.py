"""OpenVINO under the engine, to show that an export of standard operators is not made for one runtime."""

from pathlib import Path

import numpy as np
import pytest

from glm.runtime.columns import INPUTS, ColumnStepRuntime, step_shapes


class OpenVinoRuntime(ColumnStepRuntime):
    """A step graph, compiled for the CPU in float32: some processors would take bfloat16."""

    def __init__(self, model_file: Path, capacity: int):
        openvino = pytest.importorskip("openvino", reason="openvino is not installed: requirements-test.txt")
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        self._graph = openvino.Core().compile_model(str(model_file), "CPU", options)
        shapes = ({_name(node): _sizes(node) for node in ends} for ends in (self._graph.inputs, self._graph.outputs))
        super().__init__(**step_shapes(model_file, *shapes), capacity=capacity)

    def _run(self, past: list[np.ndarray], feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        found = self._graph(feeds | self._named(past))
        return found["logits"], found["new"]


def _name(node) -> str:
    """That of the export, beside which OpenVINO may have others."""
    return next(name for name in node.names if name in (*INPUTS, "logits", "new") or name.startswith("past_"))


def _sizes(node) -> list[int]:
    return [size.get_length() if size.is_static else -1 for size in node.partial_shape]

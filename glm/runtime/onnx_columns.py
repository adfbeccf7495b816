"""Step graphs that give new keys and values back (glm/export/onnx/column_cache.py) in ONNX Runtime on a CPU or GPU.

Imports neither paddle nor paddlenlp. Shapes: as in glm/runtime/step.py.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glm.runtime.columns import ColumnStepRuntime, step_shapes
from glm.runtime.onnx_session import CPU, Reads, open_session


class OnnxColumnRuntime(ColumnStepRuntime):
    """A step graph that is loaded; see `glm.runtime.step.StepRuntime`. Arguments as of `OnnxStepRuntime`."""

    def __init__(self, model_file: Path, capacity: int, threads: int = 0, providers: Sequence = (CPU,)):
        self._session, self._reads = open_session(model_file, threads, providers), Reads()
        nodes = self._session.get_inputs(), self._session.get_outputs()
        shapes = ({node.name: node.shape for node in some} for some in nodes)
        super().__init__(**step_shapes(model_file, *shapes), capacity=capacity)

    def read(self, *arguments) -> np.ndarray:
        with self._reads.under_way():
            return super().read(*arguments)

    def interrupt(self) -> None:
        self._reads.interrupt()

    def _run(self, past: list[np.ndarray], feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        try:
            # Arrays in one piece are read where they lie.
            return self._session.run(["logits", "new"], feeds | self._named(past), self._reads.options)
        except Exception as error:  # ONNX Runtime's errors have no class in common but this one
            raise self._reads.failure(error) from error

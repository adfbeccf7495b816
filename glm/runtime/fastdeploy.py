"""Step graphs of standard operators (glm/export/onnx/column_cache.py) in FastDeploy 1.0.7: its C++ runtime with the
ONNX Runtime 1.12 that it has inside. Imports neither paddle nor paddlenlp: the package holds a Paddle of its own.

Shapes: as in glm/runtime/step.py.
"""

import os
import sys
from types import ModuleType
from typing import Any

import numpy as np

import glm
from glm.errors import GLMError
from glm.runtime.columns import ColumnStepRuntime, step_shapes
from glm.runtime.onnx_files import graph_with_weights_at
from glm.runtime.onnx_session import reason
from glm.runtime.options import RuntimeOptions

VERSION = "1.0.7"
INSTALL = (
    f"pip install fastdeploy-python=={VERSION} with Python 3.8 to 3.10 (docs/devices.md), or use --backend onnx_runtime"
)


class FastDeployRuntime(ColumnStepRuntime):
    """A step graph that is loaded; see `glm.runtime.step.StepRuntime`.

    Args:
        options: the graph's file, device, threads and capacity.

    Raises:
        GLMError: FastDeploy 1.0.7 is not installed, its build has no such device, or the file is missing, damaged or no
            step graph.
    """

    def __init__(self, options: RuntimeOptions):
        if not options.model_file.is_file():
            raise GLMError(f"{options.model_file} is missing: export the model with --format onnx --opset 17")
        self._fastdeploy = _import_fastdeploy()
        self._runtime = self._open(options)
        ends = (
            [info(index) for index in range(count())]
            for count, info in (
                (self._runtime.num_inputs, self._runtime.get_input_info),
                (self._runtime.num_outputs, self._runtime.get_output_info),
            )
        )
        shapes = ({node.name: node.shape for node in some} for some in ends)
        super().__init__(**step_shapes(options.model_file, *shapes), capacity=options.capacity)

    def _run(self, past: list[np.ndarray], feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        try:
            logits, new = self._runtime.infer(
                {name: self._tensor(array) for name, array in (feeds | self._named(past)).items()}
            )
        except RuntimeError as error:
            raise GLMError(f"the graph failed in FastDeploy: {reason(error)}") from error
        return logits.numpy(), new.numpy()

    def _open(self, options: RuntimeOptions) -> Any:
        glm.tune_for_generation()
        option = self._fastdeploy.RuntimeOption()
        self._use_device(option, options)
        if options.cpu_threads:
            option.set_cpu_thread_num(options.cpu_threads)
        option.use_ort_backend()
        # It gives ONNX Runtime the graph without its place, so the weights are looked for from the working directory.
        weights = os.path.relpath(options.model_file.with_name(f"{options.model_file.name}.data").resolve())
        try:
            graph = graph_with_weights_at(options.model_file, weights)
            option.set_model_buffer(graph, "", self._fastdeploy.ModelFormat.ONNX)
            return self._fastdeploy.Runtime(option)
        except Exception as error:  # of protobuf, ONNX Runtime and FastDeploy, with no class in common but this one
            raise GLMError(f"FastDeploy cannot load {options.model_file}: {reason(error)}") from error

    def _use_device(self, option: Any, options: RuntimeOptions) -> None:
        if options.device == "cpu":
            option.use_cpu()
        elif self._fastdeploy.is_built_with_gpu():
            option.use_gpu(options.device_id)
        else:  # it would take the CPU
            raise GLMError(
                f"the installed fastdeploy {VERSION} was built without GPU: install fastdeploy-gpu-python, or use "
                "--device cpu"
            )

    def _tensor(self, array: np.ndarray) -> Any:
        """An array as FastDeploy reads it, where it lies."""
        tensor = self._fastdeploy.C.FDTensor()
        tensor.from_numpy(array, True)
        return tensor


def _import_fastdeploy() -> ModuleType:
    """The fastdeploy module, if it is the one that was tried: other packages have its name, and other interfaces."""
    try:
        import fastdeploy
    except (ImportError, RuntimeError) as error:  # the latter of a library that it does not find
        raise GLMError(
            f"backend fastdeploy is not installed for Python {sys.version_info[0]}.{sys.version_info[1]} "
            f"({reason(error)}): {INSTALL}"
        ) from None
    found = getattr(fastdeploy, "__version__", "of unknown version")
    if not hasattr(fastdeploy, "RuntimeOption") or found != VERSION:
        raise GLMError(f"the installed fastdeploy is {found}, and this code runs {VERSION}: {INSTALL}")
    fastdeploy.set_logger(False, False)  # it writes to standard output, where texts go
    return fastdeploy

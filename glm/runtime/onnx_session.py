"""Sessions of ONNX Runtime. Imports neither paddle nor paddlenlp."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import glm
from glm.errors import GLMError
from glm.runtime.onnx_files import graph_of
from glm.runtime.options import RuntimeOptions
from glm.runtime.step import InterruptedReadError

CPU = "CPUExecutionProvider"


def open_session(model_file: Path, threads: int, providers: Sequence, options: Any = None) -> Any:
    """An InferenceSession.

    Args:
        model_file: `<prefix>.onnx`, with its weights beside it.
        threads: of the matmuls; 0 = one per core.
        providers: ONNX Runtime's, best first.
        options: SessionOptions, to be changed; new ones, if not given.

    Raises:
        GLMError: ONNX Runtime is not installed, or the file is missing or damaged.
    """
    runtime = import_onnxruntime()
    if not model_file.is_file():
        raise GLMError(f"{model_file} is missing: export the model with --format onnx")
    options = options or runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # warnings are for those who build graphs, and errors are raised
    glm.tune_for_generation()  # packing copies the weights
    try:
        return runtime.InferenceSession(graph_of(model_file, options), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors have no class in common but this one
        raise GLMError(f"ONNX Runtime cannot load {model_file}: {reason(error)}") from error


class Reads:
    """The reads of a session, which another thread can end.

    Attributes:
        options: RunOptions of the one that is under way; None of every other call.
    """

    def __init__(self):
        self.options = None

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Calls of the session in this context can be ended."""
        self.options = import_onnxruntime().RunOptions()
        try:
            yield
        finally:
            self.options = None

    def interrupt(self) -> None:
        """ONNX Runtime looks at the flag before every operator."""
        if (options := self.options) is not None:
            options.terminate = True

    def failure(self, error: Exception) -> GLMError:
        """What a call that failed is to raise; within `under_way`, if it was a read."""
        if self.options is not None and self.options.terminate:
            return InterruptedReadError("the reading of a prompt was interrupted")
        return GLMError(f"the graph failed in ONNX Runtime: {reason(error)}")


def reason(error: Exception) -> str:
    """ONNX Runtime's message on one line."""
    return " ".join(str(error).split())[:300]


def import_onnxruntime() -> Any:
    """Raises GLMError where ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise GLMError(
            f"backend onnx_runtime is not installed ({error}): pip install onnxruntime, which has wheels from Python "
            "3.11 on, or export with --format paddle"
        ) from None
    return onnxruntime


def providers(options: RuntimeOptions) -> list:
    """ONNX Runtime's, best first, for a device. Raises GLMError where its build has none for it."""
    if options.device == "cpu":
        return [CPU]
    there = import_onnxruntime().get_available_providers()
    if "CUDAExecutionProvider" not in there:
        raise GLMError(
            f"the installed onnxruntime has no CUDAExecutionProvider, only {', '.join(there)}: install "
            "onnxruntime-gpu, or use --device cpu"
        )
    return [("CUDAExecutionProvider", {"device_id": options.device_id}), CPU]

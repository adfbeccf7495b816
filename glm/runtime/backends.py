"""What can run exported graphs, and which of them is the fastest here. Imports no framework."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from glm.device.choice import choose_device, may_have_accelerator
from glm.errors import GLMError, UsageError
from glm.runtime.options import RuntimeOptions
from glm.runtime.step import LoopRuntime, StepRuntime


@dataclass(frozen=True)
class Backend:
    """A runtime.

    Attributes:
        format: of the exports that it runs.
        package: what has to be installed.
        devices: kinds that it runs on.
        loop, step: module:name of what opens a full-loop graph, None where it runs none, and a decoder step graph
            (`RuntimeOptions` → runtime).
        standard: whether it knows standard ONNX operators alone.
    """

    format: str
    package: str
    devices: tuple[str, ...]
    loop: str | None
    step: str
    standard: bool = False

    def open_loop(self, options: RuntimeOptions) -> LoopRuntime:
        """Raises GLMError: the backend is not installed, or the graph is damaged."""
        return _named(self.loop)(options)

    def open_step(self, options: RuntimeOptions) -> StepRuntime:
        """Raises GLMError: as `open_loop`."""
        return _named(self.step)(options)


BACKENDS = {
    "onnx_runtime": Backend("onnx", "onnxruntime", ("cpu", "gpu"), None, "glm.runtime.onnx_step:open_step"),
    "paddle": Backend(
        "paddle",
        "paddle",
        ("cpu", "gpu", "npu"),
        "glm.runtime.paddle_inference:PaddleInferenceRuntime",
        "glm.runtime.paddle_step:PaddleStepRuntime",
    ),
    "fastdeploy": Backend(
        "onnx", "fastdeploy", ("cpu", "gpu"), None, "glm.runtime.fastdeploy:FastDeployRuntime", standard=True
    ),
}


@dataclass(frozen=True)
class Choice:
    """A backend, where it runs, and why.

    Attributes:
        name: in `BACKENDS`.
        device: cpu, gpu or npu, with a number or without.
        reason: for the user.
    """

    name: str
    device: str
    reason: str

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.name]

    def __str__(self) -> str:
        return f"backend: {self.name} on {self.device} ({self.reason})"


def choose(wanted: str | None, device: str | None, formats: Sequence[str]) -> Choice:
    """The backend that was asked for, or the fastest one that the export and this machine allow.

    Args:
        device: npu, gpu or cpu, with a number or without; None = the best one present.
        formats: in which the model was exported.

    Raises:
        UsageError: an unknown backend, or a device that is not there. GLMError: no export that the backend runs, or a
            package that is missing.
    """
    if wanted is None:
        return _fastest(device, formats)
    if wanted not in BACKENDS:
        raise UsageError(f"backend '{wanted}' is unknown; known: {', '.join(BACKENDS)}")
    backend = BACKENDS[wanted]
    if backend.format not in formats:
        raise GLMError(
            f"backend {wanted} runs exports of --format {backend.format}, and this one is {' and '.join(formats)}: "
            f"export again, or use --backend {next(n for n, b in BACKENDS.items() if b.format in formats)}"
        )
    return Choice(wanted, _device_of(wanted, device), "asked for")


def _fastest(device: str | None, formats: Sequence[str]) -> Choice:
    # Looking for an accelerator imports Paddle, which takes longer than loading a small model.
    found = choose_device(device) if device not in (None, "cpu") or may_have_accelerator() else "cpu"
    if "paddle" in formats and found != "cpu":
        return Choice("paddle", found, f"the one that keeps a model on {found.split(':')[0]}")
    if "onnx" not in formats:
        return Choice("paddle", found, "--format onnx would be faster on a CPU")
    if find_spec("onnxruntime"):
        return Choice("onnx_runtime", _device_of("onnx_runtime", device), "the fastest on a CPU")
    if "paddle" in formats:
        return Choice("paddle", found, "onnxruntime is not installed, which is faster on a CPU")
    return Choice("onnx_runtime", "cpu", "the only one for --format onnx")  # opening it says what is missing


def _device_of(name: str, wanted: str | None) -> str:
    """The device of a backend; only Paddle's has to be looked for with Paddle."""
    backend = BACKENDS[name]
    if backend.package != "paddle":
        kind, colon, number = (wanted or "cpu").partition(":")
        if kind not in backend.devices:
            raise UsageError(f"backend {name} runs on {' or '.join(backend.devices)}, not on '{wanted}'")
        if colon and (kind == "cpu" or not number.isdecimal()):
            raise UsageError(f"device '{wanted}' has a wrong number: write cpu, gpu or gpu:0")
        return wanted or "cpu"
    return choose_device(wanted)


def _named(place: str):
    module, name = place.split(":")
    return getattr(import_module(module), name)

"""Which backend an export runs on, by its formats, the device and what is installed."""

import pytest

from glm.errors import GLMError, UsageError
from glm.runtime import BACKENDS, backends, choose

BOTH = ["paddle", "onnx"]


@pytest.fixture
def machine(monkeypatch):
    """A machine with these devices, with or without ONNX Runtime."""

    def make(device: str = "cpu", onnx_runtime: bool = True) -> None:
        monkeypatch.setattr(backends, "may_have_accelerator", lambda: device != "cpu")
        monkeypatch.setattr(backends, "choose_device", lambda wanted=None: wanted or device)
        monkeypatch.setattr(backends, "find_spec", lambda name: onnx_runtime or None)

    return make


@pytest.mark.parametrize(
    ("device", "onnx_runtime", "formats", "wanted", "found"),
    [
        ("cpu", True, BOTH, None, "onnx_runtime on cpu"),
        ("cpu", True, ["onnx"], None, "onnx_runtime on cpu"),
        ("cpu", True, ["paddle"], None, "paddle on cpu"),
        ("cpu", False, BOTH, None, "paddle on cpu"),
        ("npu", True, BOTH, None, "paddle on npu"),
        ("npu", True, BOTH, "cpu", "onnx_runtime on cpu"),
        ("npu", True, ["onnx"], None, "onnx_runtime on cpu"),
        ("gpu", True, BOTH, "gpu:1", "paddle on gpu:1"),
        ("gpu", True, ["onnx"], "gpu:1", "onnx_runtime on gpu:1"),
        ("cpu", False, ["onnx"], None, "onnx_runtime on cpu"),
    ],
)
def test_the_fastest(machine, device, onnx_runtime, formats, wanted, found):
    machine(device, onnx_runtime)
    choice = choose(None, wanted, formats)
    assert str(choice).startswith(f"backend: {found} (")
    assert choice.backend is BACKENDS[choice.name]


def test_what_was_asked_for(machine):
    machine("npu")
    assert str(choose("paddle", None, BOTH)) == "backend: paddle on npu (asked for)"
    assert str(choose("onnx_runtime", None, BOTH)) == "backend: onnx_runtime on cpu (asked for)"
    assert choose("fastdeploy", "cpu", ["onnx"]).device == "cpu"
    with pytest.raises(UsageError, match="backend 'tensorrt' is unknown; known: onnx_runtime, paddle, fastdeploy"):
        choose("tensorrt", None, BOTH)
    with pytest.raises(UsageError, match="backend onnx_runtime runs on cpu or gpu, not on 'npu:1'"):
        choose("onnx_runtime", "npu:1", BOTH)
    with pytest.raises(UsageError, match="backend fastdeploy runs on cpu or gpu, not on 'npu'"):
        choose("fastdeploy", "npu", BOTH)
    with pytest.raises(GLMError, match="this one is onnx: export again, or use --backend onnx_runtime"):
        choose("paddle", None, ["onnx"])
    with pytest.raises(GLMError, match="this one is paddle: export again, or use --backend paddle"):
        choose("fastdeploy", None, ["paddle"])


def test_onnx_runtime_that_is_missing(machine):
    """Opening it says so."""
    machine(onnx_runtime=False)
    assert choose(None, None, ["onnx"]).reason == "the only one for --format onnx"

"""Chooses the device."""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from glm.errors import UsageError

# Best first.
DEVICES = ("npu", "gpu", "cpu")


def device_counts() -> dict[str, int]:
    """How many devices of each kind the installed Paddle can use, best kind first. Imports Paddle."""
    import paddle

    # One device is listed as `npu`, several as `npu:0`, `npu:1` …
    found = Counter(name.split(":")[0] for name in paddle.device.get_available_custom_device() or [])
    if paddle.device.is_compiled_with_cuda():
        found["gpu"] = paddle.device.cuda.device_count()
    found["cpu"] = 1
    return {kind: found[kind] for kind in DEVICES if found[kind]}


def may_have_accelerator() -> bool:
    """Whether looking for a device other than the CPU is worth importing Paddle; never wrongly False."""
    plugin = os.environ.get("CUSTOM_DEVICE_ROOT") or find_spec("paddle_custom_device")
    return bool(plugin) or any(Path("/dev").glob("nvidia[0-9]*"))


def choose_device(wanted: str | None = None) -> str:
    """`wanted` if it is there (`npu`, `gpu:1`, `cpu`), or the best device that is.

    In a process of paddle.distributed.launch the number is the one that the launcher gave it.

    Raises:
        UsageError: it is not there, or is another process's; the line says what is.
    """
    counts = device_counts()
    kind, colon, number = (wanted or next(iter(counts))).partition(":")
    if kind not in counts:
        raise UsageError(f"device '{wanted}' is not on this machine; found: {', '.join(counts)}")
    if colon and (kind == "cpu" or not number.isdecimal()):
        example = "write cpu" if kind == "cpu" else f"write {kind} or {kind}:0"
        raise UsageError(f"device '{wanted}' has a wrong number: {example}")
    launched = _launched_number(kind)
    if colon and launched not in (None, number):
        raise UsageError(
            f"device '{wanted}' is another process's: the launcher gave this one {kind}:{launched}; write {kind}"
        )
    number = number or launched
    if number is None:
        return kind
    if int(number) >= counts[kind]:
        raise UsageError(_too_few(f"{kind}:{number}", counts[kind]))
    return f"{kind}:{int(number)}"


def _launched_number(kind: str) -> str | None:
    """The device of this process among those of its kind, if a launcher chose it."""
    return os.environ.get(f"FLAGS_selected_{kind}s", "").split(",")[0].strip() or None if kind != "cpu" else None


def _too_few(device: str, count: int) -> str:
    kind = device.split(":")[0]
    there = f"1 {kind}, {kind}:0" if count == 1 else f"{count} {kind}s, {kind}:0 to {kind}:{count - 1}"
    return f"device '{device}' is not on this machine, which has {there}"


def check_dtype(dtype: str | None, device: str, flag: str = "--dtype") -> None:
    """Raises UsageError for half precision on a CPU, for which Paddle has no matmul of it."""
    if device.split(":")[0] == "cpu" and dtype not in (None, "float32"):
        raise UsageError(
            f"{flag} {dtype} needs a GPU or an NPU: Paddle has no half-precision matmul on the CPU; leave it out"
        )

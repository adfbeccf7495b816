"""Tries on a device what the suite needs of it, and says in a line what is missing.

Paddle's core brings all kernels of the CPU and of CUDA. An NPU's lie partly in the core, partly in the plugin
paddle-custom-npu, so an installation can lack some: the two must be of one version.
"""

import ast
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import paddle

from glm.device.capabilities import CAPABILITIES, GENERATION, HALF_DTYPES, MODEL, TRAINING, Capability
from glm.device.choice import choose_device
from glm.device.paddle_reason import paddle_reason
from glm.errors import GLMError, UsageError

TOLERANCE = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}  # of the largest number; half precisions round so


@dataclass(frozen=True)
class Result:
    """What became of a capability; `reason` is None where it works."""

    name: str
    use: str
    reason: str | None


@dataclass(frozen=True)
class Report:
    """What a device can do.

    Attributes:
        device: where it was tried, such as npu:0.
        results: one a capability, in the order of glm/device/capabilities.py.
        versions: of Paddle's core, and of the plugin where there is one.
        seconds: how long it took.
    """

    device: str
    results: tuple[Result, ...]
    versions: dict[str, str]
    seconds: float

    def missing(self, use: str) -> list[Result]:
        """What does not work, the model's own parts included.

        Args:
            use: training or generation, both in float32, or bfloat16 or float16.
        """
        uses = (MODEL, use)
        return [result for result in self.results if result.use in uses and result.reason is not None]


def probe(device: str) -> Report:
    """Tries everything once in this process; the process's own device and random numbers stay as they were.

    Args:
        device: as `choose_device` takes it.

    Raises:
        UsageError: the device is not there.
    """
    return _probe(choose_device(device))


@lru_cache
def _probe(device: str) -> Report:
    start = time.perf_counter()
    before = paddle.device.get_device()
    paddle.set_device(device)
    random_state = paddle.get_rng_state()
    try:
        device = paddle.device.get_device()
        results = tuple(Result(c.name, c.use, _reason(c)) for c in CAPABILITIES)
    finally:
        paddle.set_rng_state(random_state)
        paddle.set_device(before)
    return Report(device, results, versions(device), time.perf_counter() - start)


def _reason(capability: Capability) -> str | None:
    """Why it does not work, or None."""
    try:
        # Names of what comes later, which optimizers save under, must not depend on the probe.
        with paddle.enable_grad(), paddle.utils.unique_name.guard():
            pairs = capability.run(capability.dtype)
        return next(filter(None, (device_fault(*pair, capability.dtype) for pair in pairs)), None)
    # Paddle raises nearly every class there is: a fault of any kind is what the probe is here to report.
    except Exception as error:
        return paddle_reason(error)


def device_fault(found: paddle.Tensor, wanted, dtype: str) -> str | None:
    """What is wrong with a tensor that was computed on the current device: where it lies, or what it holds."""
    here = paddle.framework._current_expected_place_()
    if str(found.place) != str(here):
        return f"a result lies at {found.place}, not at {here}"
    values = found.astype("float32").numpy() if found.dtype in (paddle.float16, paddle.bfloat16) else found.numpy()
    wanted = np.asarray(wanted, dtype=values.dtype)
    scale = max(1.0, float(np.abs(wanted).max()))
    if values.shape == wanted.shape and np.allclose(values, wanted, rtol=0, atol=TOLERANCE[dtype] * scale):
        return None
    return f"gives {values.tolist()} instead of {wanted.tolist()}"


def versions(device: str) -> dict[str, str]:
    """Versions that must fit each other, as far as they are to be read.

    A wheel of paddle-custom-npu writes its own into paddle_custom_device/npu/__init__.py; that module also registers
    operators, so it is read and not imported.
    """
    found = {"paddlepaddle": paddle.version.full_version, "its commit": paddle.version.commit[:12]}
    if device.split(":")[0] != "npu":
        return found
    constants = _constants(_plugin_file())
    names = {"paddle-custom-npu": "full_version", "plugin's commit": "git_commit_id", "CANN": "cann_version"}
    plugin = {label: constants[name] for label, name in names.items() if name in constants}
    return found | (plugin or {"paddle-custom-npu": "unknown (not installed as a package)"})


def _plugin_file() -> Path | None:
    spec = find_spec("paddle_custom_device")
    return Path(spec.origin).parent / "npu" / "__init__.py" if spec and spec.origin else None


def _constants(path: Path | None) -> dict[str, str]:
    """Names and strings that a Python file assigns at its top level."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body if path else []
    except (OSError, SyntaxError, ValueError):
        return {}
    assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    return {node.targets[0].id: str(node.value.value) for node in assigned if isinstance(node.targets[0], ast.Name)}


def require(device: str, use: str = TRAINING) -> None:
    """Makes sure that an NPU can do what is needed; CPU and GPU have their kernels with Paddle itself.

    Args:
        device: as `choose_device` gives it.
        use: training or generation, both in float32.

    Raises:
        UsageError: something is missing; the line names it, the versions, and what to do.
    """
    missing = _missing(device, use)
    if missing:
        report = probe(device)
        here = ", ".join(f"{name} {value}" for name, value in report.versions.items())
        raise UsageError(
            f"{report.device} cannot do {use}: it lacks {_named(missing)}; here: {here}; "
            "install paddlepaddle and paddle-custom-npu of one version (docs/devices.md), "
            "`python -m glm.device` lists what works"
        )


def require_dtype(device: str, dtype: str | None, flag: str = "--dtype") -> None:
    """Makes sure that an NPU has a half precision; `check_dtype` of glm/device/choice.py is for the CPU.

    Args:
        device: as `choose_device` gives it.
        dtype: float32 and None pass.
        flag: what the user wrote before it.

    Raises:
        UsageError: something is missing; the line names it.
    """
    missing = _missing(device, dtype) if dtype in HALF_DTYPES else []
    if missing:
        raise UsageError(f"{flag} {dtype} does not run on {device}: it lacks {_named(missing)}; use float32")


def _missing(device: str, use: str) -> list[Result]:
    return probe(device).missing(use) if device.split(":")[0] == "npu" else []


def _named(missing: list[Result]) -> str:
    more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{missing[0].name} ({missing[0].reason}){more}"


def default_dtype(device: str) -> tuple[str, str]:
    """The dtype to train in where the user names none, and why: bfloat16 on a device that has it, else float32."""
    kind = device.split(":")[0]
    if kind == "cpu":
        return "float32", "Paddle's CPU kernels have no half-precision matmul"
    if kind == "gpu":
        return (
            ("bfloat16", f"{device} has it") if _gpu_has_bfloat16(device) else ("float32", f"{device} lacks bfloat16")
        )
    missing = _missing(device, "bfloat16")
    if missing:
        return "float32", f"bfloat16 does not run on {device}: it lacks {_named(missing)}"
    return "bfloat16", f"{device} has all that it needs"


def usable_dtype(device: str, dtype: str) -> str:
    """The dtype for weights that were saved in `dtype`: the same where the device computes in it, else float32."""
    kind = device.split(":")[0]
    if kind == "gpu":
        return dtype if dtype != "bfloat16" or _gpu_has_bfloat16(device) else "float32"
    return "float32" if kind == "cpu" or (dtype in HALF_DTYPES and _missing(device, dtype)) else dtype


def _gpu_has_bfloat16(device: str) -> bool:
    """Needs CUDA; not tried on hardware by this project's tests."""
    import paddle

    return paddle.is_compiled_with_cuda() and paddle.amp.is_bfloat16_supported(device)


def print_report(report: Report) -> None:
    """A table of what works, and the versions."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"what {report.device} can do", title_justify="left")
    for heading in ("for", "capability", "", "reason"):
        table.add_column(heading)
    for use in (MODEL, TRAINING, GENERATION, *HALF_DTYPES):
        for result in (r for r in report.results if r.use == use):
            mark = "[green]✓[/]" if result.reason is None else "[red]✗[/]"
            table.add_row(use, result.name, mark, escape(result.reason or ""))
    console = Console()
    console.print(table)
    for name, value in report.versions.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    console.print(f"probed in {report.seconds:.2f} s", highlight=False)


def probe_collectives() -> None:
    """Tries what tensor parallelism sends between the ranks of a launch, on one number per rank.

    Every rank calls it, after fleet.init; with one rank in the tensor-parallel group there is nothing to try.

    Raises:
        GLMError: one fails or gives wrong numbers; the line names it, the rank and Paddle's reason.
    """
    from paddle.distributed import fleet

    groups = fleet.get_hybrid_communicate_group()
    group, rank = groups.get_model_parallel_group(), groups.get_model_parallel_rank()
    if group.nranks == 1:
        return
    for name, run in _collectives(group, rank).items():
        try:
            found, wanted = run()
            fault = device_fault(found, wanted, "float32")
        except Exception as error:  # as in _reason
            fault = paddle_reason(error)
        if fault:
            raise GLMError(
                f"{name} fails between {group.nranks} {paddle.device.get_device().split(':')[0]}s, on rank {rank}: "
                f"{fault}; see docs/devices.md"
            )


def _collectives(group, rank: int) -> dict[str, Callable[[], tuple[paddle.Tensor, object]]]:
    """Name → computation that gives what this rank ends with, and what it should: rank r brings r + 1."""
    import paddle.distributed as dist
    from paddle.distributed.fleet.layers.mpu import mp_ops

    everyone = list(range(1, group.nranks + 1))

    def own() -> paddle.Tensor:
        return paddle.full([1], rank + 1.0)

    def all_reduce():
        x = own()
        dist.all_reduce(x, group=group)
        return x, [sum(everyone)]

    def broadcast():
        x = own()
        dist.broadcast(x, src=group.ranks[0], group=group)
        return x, [1]

    def all_gather():
        parts: list[paddle.Tensor] = []
        dist.all_gather(parts, own(), group=group)
        return paddle.concat(parts), everyone

    def concat():
        return mp_ops._c_concat(own().reshape([1, 1]), group=group), [everyone]

    def identity():
        x = own()
        x.stop_gradient = False
        (mp_ops._c_identity(x, group=group) * (rank + 1)).sum().backward()
        return x.grad, [sum(everyone)]

    return {
        "all_reduce": all_reduce,
        "broadcast": broadcast,
        "all_gather": all_gather,
        "c_concat": concat,
        "c_identity": identity,
    }

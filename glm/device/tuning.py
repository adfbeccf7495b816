"""Tunes the CPU before Paddle starts.

`tune_cpu` runs when `glm` is imported, ahead of Paddle, because MKL reads its environment once; `keep_freed_memory` is
the scripts' affair (`glm.tune`), for it is felt by all that a process does, and so is `use_huge_pages`, when they open
a model to generate. Four things cost a CPU most of its speed and are fixed here; what the user has set stays as it is,
and GLM_TUNE=0 switches all of it off:

- Paddle's x86 wheels carry MKL 2019, which takes a slow path on AMD processors, and Paddle starts with one thread.
- Paddle gives every large tensor back to the system at once, so each new one pays for fresh pages again.
- Paddle's strided kernels leave transposed tensors as views, which the next kernel copies element by element.
- ONNX Runtime packs its weights into small pages, through whose tables a processor reads a sixth slower.

`python -m glm.device` prints what was set and why.
"""

import ctypes
import os
import platform
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

# Instruction sets of MKL_DEBUG_CPU_TYPE values, best first; 9 = AVX-512 of Cascade Lake, 5 = AVX2 of Haswell.
MKL_CPU_TYPES = {
    "9": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "5": {"avx2", "fma"},
}

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SWITCH = "GLM_TUNE"
_OFF = ("0", "false", "no", "off")
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, -1  # malloc.h
_MADV_HUGEPAGE = 14  # sys/mman.h of Linux


@dataclass(frozen=True)
class Setting:
    """One environment variable: its value (None = not set), and why."""

    name: str
    value: str | None
    reason: str


def tune_cpu(environ: MutableMapping[str, str], cpuinfo: str | None = None) -> list[Setting]:
    """Sets MKL's processor type and thread count in `environ`, unless they are there already.

    Args:
        environ: os.environ, before Paddle is imported.
        cpuinfo: text of /proc/cpuinfo; read from there if not given.

    Returns:
        What was decided, one entry a variable.
    """
    if is_off(environ):
        names = ("MKL_DEBUG_CPU_TYPE", "MKL_NUM_THREADS", "FLAGS_use_stride_kernel")
        return [Setting(name, environ.get(name), f"{SWITCH} is {environ[SWITCH]}") for name in names]
    settings = [
        _mkl_cpu_type(environ, _cpuinfo() if cpuinfo is None else cpuinfo),
        _threads(environ),
        _stride_kernel(environ),
    ]
    for setting in settings:
        if setting.value is not None:
            environ[setting.name] = setting.value
    return settings


def is_off(environ: Mapping[str, str], switch: str = SWITCH) -> bool:
    """Whether the user has switched all tuning off, or what another variable switches."""
    return environ.get(switch, "").lower() in _OFF


def _mkl_cpu_type(environ: MutableMapping[str, str], cpuinfo: str) -> Setting:
    name = "MKL_DEBUG_CPU_TYPE"
    if name in environ:
        return Setting(name, environ[name], "set by the user")
    if "AuthenticAMD" not in cpuinfo:
        return Setting(name, None, "not an AMD processor: MKL chooses well by itself")
    flags = set(next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split())
    for value, needed in MKL_CPU_TYPES.items():
        if needed <= flags:
            return Setting(name, value, f"AMD processor with {', '.join(sorted(needed))}")
    return Setting(name, None, "AMD processor without AVX2")


def _threads(environ: MutableMapping[str, str]) -> Setting:
    name = "MKL_NUM_THREADS"
    if name in environ:
        return Setting(name, environ[name], "set by the user")
    ranks = int(environ.get("PADDLE_LOCAL_SIZE") or 1)
    # The launcher imports Paddle, which sets OMP_NUM_THREADS to 1 for every rank; a lone 1 there is nobody's wish.
    launched = "PADDLE_TRAINER_ID" in environ and environ.get("OMP_NUM_THREADS") == "1"
    if "OMP_NUM_THREADS" in environ and not launched:
        return Setting(name, environ["OMP_NUM_THREADS"], "OMP_NUM_THREADS set by the user")
    cores = usable_cores()
    return Setting(
        name, str(max(1, cores // ranks)), f"{cores} cores for {ranks} local process{'es'[: 2 * (ranks > 1)]}"
    )


def _stride_kernel(environ: MutableMapping[str, str]) -> Setting:
    name = "FLAGS_use_stride_kernel"
    if name in environ:
        return Setting(name, environ[name], "set by the user")
    # A plugin that this variable names may count on strides; for one that pip installed, 0 is also what Paddle's NPU
    # image sets (docs/devices.md).
    if environ.get("CUSTOM_DEVICE_ROOT"):
        return Setting(name, None, "CUSTOM_DEVICE_ROOT names a plugin")
    return Setting(name, "0", "transposes are made once, not by every kernel that reads them")


def keep_freed_memory(environ: MutableMapping[str, str]) -> Setting:
    """Tells glibc to keep what is freed for the next tensor, instead of mapping and clearing new pages for it."""
    name = "mallopt"
    if is_off(environ):
        return Setting(name, None, f"{SWITCH} is {environ[SWITCH]}")
    chosen = [key for key in environ if key.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))]
    if chosen:
        return Setting(name, None, f"{chosen[0]} set by the user")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is None:
        return Setting(name, None, "not glibc")
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return Setting(name, "mmap_max=0", "freed tensors are reused, not given back to the system")


def use_huge_pages(modes: Path = HUGE_PAGES) -> Setting:
    """Has all that a process takes of its heap from now on lie in huge pages, where Linux gives them to who asks.

    A step of generation reads all weights, and the tables of small pages between them. For a process that keeps freed
    memory: the heap is grown by nearly as much as the machine has, which takes none of it before it is used, marked,
    and given back to glibc as one free piece.

    Args:
        modes: where Linux says who gets huge pages.
    """
    name = "madvise"
    if "[madvise]" not in (said := modes.read_text() if modes.is_file() else ""):
        return Setting(name, None, "huge pages for all already" if "[always]" in said else "no huge pages here")
    libc, page = ctypes.CDLL(None), os.sysconf("SC_PAGE_SIZE")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # Linux refuses to reserve more than the machine has, which something of is in use.
    size = os.sysconf("SC_PHYS_PAGES") * 15 // 16 * page
    if (start := libc.malloc(size)) is None:
        return Setting(name, None, f"{size >> 30} GiB of addresses are more than this process may reserve")
    failed = libc.madvise(-(-start // page) * page, size - page, _MADV_HUGEPAGE)
    libc.free(start)
    if failed:
        return Setting(name, None, "refused by the system")
    return Setting(name, "hugepage", "weights are read through fewer tables of pages")


def usable_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else platform.processor()

"""The compiled kernels, loaded once, and how they are called."""

import ctypes
import os
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

from glm.device.tuning import SWITCH as TUNING
from glm.device.tuning import is_off
from glm.kernels.build import BuildError, built, cache_directory

SWITCH = "GLM_KERNELS"
OPENMP, MATMUL = "libiomp5.so", "libmklml_intel.so"  # of Paddle's wheels for x86
_CPU = paddle.CPUPlace()
_TYPES = {"P": ctypes.c_void_p, "N": ctypes.c_int64, "F": ctypes.c_float}
# Arguments of each kernel in their order: pointers, numbers, floats.
KERNELS = {
    "use_matmul": "P",
    "use_threads": "N",
    "swiglu": "PPPN",
    "swiglu_grad": "PPPPPN",
    "gelu_tanh": "PPN",
    "gelu_tanh_grad": "PPPN",
    "dropout": "PPPNFN",
    "add_bias": "PPPNN",
    "norm": "PPPPPPNNF",
    "norm_grad": "PPPPPPPPNN",
    "rotate_pairs": "PPPPNNNNF",
    "rotate_apart": "PPPPNNNNF",
    "rotate_halves": "PPPPPPNNNF",
    "log_softmax": "PPNN",
    "cross_entropy": "PPPPNNNFF",
    "cross_entropy_grad": "PPPPPNNNFF",
    "attention": "PPPPPPNNNNNFN",
    "attention_grad": "PPPPPPPPPPPNNNNNFN",
    "cached_attention": "PPPPPPPNNNNNNN",
    "few_rows": "PPPPPPPPPPNNNNN",
    "few_gated_rows": "PPPPPPPPNNNN",
    "adamw": "PPPPPPNFFFFFF",
    "squares": "PN",
}


def serves(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these: float32 on a CPU, not while a graph is traced."""
    return (
        paddle.in_dynamic_mode()
        and all(x is None or (x.dtype == paddle.float32 and x.place.is_cpu_place()) for x in tensors)
        and fault() is None
    )


def run(name: str, *arguments: Tensor | int | float | None) -> float | None:
    """Calls a kernel of `KERNELS`; tensors are given by their memory."""
    whole = [x.contiguous() if isinstance(x, Tensor) and not x.is_contiguous() else x for x in arguments]
    return getattr(_loaded()[0], name)(*[x.data_ptr() if isinstance(x, Tensor) else x for x in whole])


def empty(*shape: int) -> Tensor:
    """Memory for a kernel to write float32 to. `paddle.empty` takes three times as long, to find dtype and place."""
    return _C_ops.empty(shape, paddle.float32, _CPU)


def numel(x: Tensor) -> int:
    """Elements of a tensor; `x.size` takes 6 µs."""
    return prod(x.shape)


def applied(function: type[PyLayer], *arguments: Any) -> Any:
    """A PyLayer's result. While no gradient is recorded its forward pass alone: `apply` takes 15 µs to call that."""
    if paddle.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_Unkept(), *arguments)


class _Unkept:
    """In the place of a PyLayer's context, whose backward pass nobody will ask for."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        pass


def fault() -> str | None:
    """Why there are no kernels in this process, or None. The first call may compile them, for some seconds."""
    return _loaded()[1]


def is_chosen_off() -> bool:
    """Whether the user has switched them off."""
    return is_off(os.environ, SWITCH) or is_off(os.environ)


@lru_cache(maxsize=1)
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none."""
    if is_chosen_off():
        return None, f"{SWITCH if is_off(os.environ, SWITCH) else TUNING} switches them off"
    folder = Path(paddle.__file__).parent / "libs"
    if not all((folder / name).is_file() for name in (OPENMP, MATMUL)):
        return None, "they need Paddle's wheel for x86 processors on Linux"
    try:
        library = ctypes.CDLL(str(built(folder / OPENMP, cache_directory())))
        matmul = ctypes.CDLL(str(folder / MATMUL))
    except (BuildError, OSError) as error:
        return None, " ".join(str(error).split())
    for name, types in KERNELS.items():
        kernel = getattr(library, name)
        kernel.argtypes, kernel.restype = [_TYPES[kind] for kind in types], None
    library.squares.restype = ctypes.c_double
    library.use_matmul(ctypes.cast(matmul.cblas_sgemm, ctypes.c_void_p))
    library.use_threads(matmul.MKL_Get_Max_Threads())
    return library, None

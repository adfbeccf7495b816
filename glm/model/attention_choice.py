"""Which attention function a device gets: flash attention where a trial accepts it, else dense or in blocks of queries.

A kernel's trial must run, forwards and backwards, and give what `DenseAttention` gives. Shapes as in
glm/model/attention.py.
"""

from functools import lru_cache
from itertools import product

import paddle
from paddle import Tensor

from glm.config.chunks import BIAS_TOKENS, attends_in_blocks
from glm.device.capabilities import HALF_DTYPES
from glm.device.paddle_reason import paddle_reason
from glm.device.probe import TOLERANCE
from glm.errors import GLMError
from glm.kernels import fault
from glm.model.attention import DenseAttention
from glm.model.block_attention import BlockAttention
from glm.model.flash_attention import CausalFlashAttention, FlashAttention, FlashMaskAttention
from glm.model.kernel_attention import KernelAttention
from glm.model.visibility import derived_rows, is_causal, seen_share

TILE = 128  # columns that kernels take at once
TRIED = ("context", "gradient of the queries", "gradient of the keys", "gradient of the values")
# Heads of GLM and of GLM-4: values per head, query heads per key/value head.
KINDS = {"GLM": (64, 1), "GLM-4": (128, 16)}
FORMS = {"FlashMask": FlashMaskAttention, "with a bias": FlashAttention, "causal": CausalFlashAttention}


def attention_class(
    dtype: str, head_dim: int, n_rep: int, visible_rows_B2T: Tensor, value_dim: int | None = None
) -> type:
    """The attention of this device for rows that see so: a class with `mask` and `prefill`.

    A graph, which any device may run, is dense.

    Args:
        value_dim: width of the values where it may be another one than that of queries and keys; no kernel takes that.
    """
    if not paddle.in_dynamic_mode():
        return DenseAttention
    device, tokens, one_width = paddle.get_device(), visible_rows_B2T.shape[2], value_dim in (None, head_dim)
    if one_width and device == "cpu" and dtype == "float32" and fault() is None:
        return KernelAttention

    def has(kind: type[FlashAttention]) -> bool:
        return one_width and flash_fault(device, dtype, head_dim, n_rep, kind) is None

    if has(FlashMaskAttention):
        return FlashMaskAttention
    if tokens <= BIAS_TOKENS and has(FlashAttention):
        return FlashAttention
    if tokens > BIAS_TOKENS and has(CausalFlashAttention) and is_causal(visible_rows_B2T):
        return CausalFlashAttention
    return BlockAttention if attends_in_blocks(tokens, lambda: seen_share(visible_rows_B2T)) else DenseAttention


def compute_dtype(weight: Tensor) -> str:
    """What matmuls compute in: the dtype of mixed precision within it, else that of the weights."""
    if paddle.in_dynamic_mode() and paddle.is_autocast_enabled():
        return paddle.get_autocast_dtype()
    return str(weight.dtype).removeprefix("paddle.")


@lru_cache
def flash_fault(device: str, dtype: str, head_dim: int, n_rep: int, kind: type[FlashAttention]) -> str | None:
    """Why a kind of flash attention is not taken on the current device, or None.

    Args:
        device: the current one, as paddle.get_device() names it.
    """
    if device == "cpu":
        return "a CPU gains nothing by it"
    if dtype not in HALF_DTYPES:
        return f"no kernel computes in {dtype}"
    return _trial(dtype, head_dim, n_rep, kind)


def _trial(dtype: str, head_dim: int, n_rep: int, kind: type[FlashAttention]) -> str | None:
    """Runs it on a few numbers, within a tile and beyond, under every kind of mask; the process stays as it was."""
    random_state = paddle.get_rng_state()
    try:
        with paddle.enable_grad(), paddle.amp.auto_cast(enable=False), paddle.utils.unique_name.guard():
            for columns in (5, TILE + 3):
                rows = trial_rows(columns, causal=kind is CausalFlashAttention)
                runs = [trial_run(attention, dtype, head_dim, n_rep, *rows) for attention in (kind, DenseAttention)]
                for name, ours, dense in zip(TRIED, *runs, strict=True):
                    _compare(name, ours, dense, dtype)
    # As in glm/device/probe.py: Paddle raises nearly every class there is.
    except Exception as error:
        return paddle_reason(error)
    finally:
        paddle.set_rng_state(random_state)
    return None


def _compare(name: str, ours: Tensor, dense: Tensor, dtype: str) -> None:
    """Raises GLMError where they differ by more than rounding, or where ours does not lie on the device."""
    if str(ours.place) != str(dense.place):
        raise GLMError(f"its {name} lies at {ours.place}, not at {dense.place}")
    if ours.shape != dense.shape:
        raise GLMError(f"its {name} is {list(ours.shape)}, not {list(dense.shape)}")
    difference = float((ours.astype("float32") - dense.astype("float32")).abs().max())
    most = TOLERANCE[dtype] * max(1.0, float(dense.astype("float32").abs().max()))
    if not difference <= most:  # NaN is not
        raise GLMError(f"its {name} is off by {difference:.2g}, where rounding explains {most:.2g}")


def trial_rows(columns: int, causal: bool) -> tuple[Tensor, Tensor]:
    """`visible_rows` and the real tokens [B, T] of rows that see different columns.

    One is causal, one padded on the right; unless all must be causal, one sees a prefix, one is padded on the left, and
    one has two documents.
    """
    column_T = paddle.arange(columns, dtype="int64")
    pads, prefix = ([[0, 0], [0, 2]], [0, 0]) if causal else ([[0, 0], [0, 2], [0, 0], [2, 0], [0, 0]], [0, 1, 2, 3, 0])
    pads = paddle.to_tensor(pads)
    mask_BT = ((column_T >= pads[:, :1]) & (column_T < columns - pads[:, 1:])).astype("int64")
    rows_B2T = derived_rows(mask_BT, paddle.to_tensor(prefix))
    if not causal:
        rows_B2T[-1, 1, :3] = 3
    return rows_B2T, mask_BT


def trial_run(attention, dtype: str, head_dim: int, n_rep: int, rows_B2T: Tensor, mask_BT: Tensor) -> list[Tensor]:
    """Context and gradients of queries, keys and values; padding, whose context nobody reads, is zero."""
    rows, columns = mask_BT.shape
    q, k, v = (_waves(rows, columns, heads, head_dim, start, dtype) for start, heads in enumerate((2 * n_rep, 2, 2)))
    attention_fn = attention(attention.mask(rows_B2T, n_rep, dtype), n_rep)
    context = attention_fn(q, k, v) * mask_BT.astype(dtype).reshape([rows, columns, 1, 1])
    (context * _waves(*context.shape, 3, dtype).detach()).sum().backward()
    return [context, q.grad, k.grad, v.grad]


def print_choice(device: str) -> None:
    """A line for each half precision and kind of head: which attention the device gets, and why."""
    before = paddle.get_device()
    paddle.set_device(device)
    for dtype, (kind, (head_dim, n_rep)) in product(HALF_DTYPES, KINDS.items()):
        faults = {name: flash_fault(paddle.get_device(), dtype, head_dim, n_rep, form) for name, form in FORMS.items()}
        taken = ", ".join(name for name, fault in faults.items() if fault is None)
        why = f"({taken} gives what dense attention gives)" if taken else f"(no flash: {faults['with a bias']})"
        print(f"attention of {kind} in {dtype}: {'flash' if taken else 'dense'}  {why}")
    paddle.set_device(before)


def _waves(rows: int, columns: int, heads: int, width: int, start: int, dtype: str) -> Tensor:
    """Numbers in -1..1 [rows, columns, heads, width] that need no generator, and a gradient of their own."""
    count = rows * columns * heads * width
    x = (paddle.arange(count, dtype="float32") * 0.7 + start).sin().reshape([rows, columns, heads, width]).astype(dtype)
    x.stop_gradient = False
    return x

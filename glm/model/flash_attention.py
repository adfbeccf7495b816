"""Flash attention (arXiv:2205.14135) on devices that have it, and the choice between it and dense attention.

Paddle's `scaled_dot_product_attention` hands mask and shared key/value heads on to the device's kernel, which keeps
scores in float32. It takes the kernel for half precision only, and for heads of at most 256 numbers that 8 divides. The
choice is a trial's: the kernel must run, forwards and backwards, and give what `DenseAttention` gives. Shapes as in
glm/model/attention.py.
"""

from contextlib import nullcontext
from functools import lru_cache
from itertools import product

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from glm.device.capabilities import HALF_DTYPES
from glm.device.paddle_reason import paddle_reason
from glm.device.probe import TOLERANCE
from glm.errors import GLMError
from glm.model.attention import AttentionDropout, DenseAttention
from glm.model.visibility import attention_bias

TILE = 128  # columns that kernels take at once
TRIED = ("context", "gradient of the queries", "gradient of the keys", "gradient of the values")
# Heads of GLM and of GLM-4: values per head, query heads per key/value head.
KINDS = {"GLM": (64, 1), "GLM-4": (128, 16)}


class FlashAttention:
    """Every query against all keys of the same call, as `DenseAttention`, without scores in memory.

    Args:
        bias: [B, 1, T, T] in the dtype to compute in (`FlashAttention.bias`).
        n_rep: R, query heads per key/value head; the kernel finds it in the shapes.
        dropout: of the attention weights; the kernel draws its random numbers itself.

    Nothing takes the kernel's place: in half precision Paddle's plain arithmetic would round scores, and GLM-4's
    overflow float16.
    """

    backend = "FLASH_ATTENTION"  # of paddle.nn.attention.SDPBackend

    def __init__(self, bias: Tensor, n_rep: int = 1, dropout: AttentionDropout | None = None):
        self.bias_B1TT, self.dropout = bias, dropout

    @staticmethod
    def bias(bias_BTT: Tensor, n_rep: int, dtype: str) -> Tensor:
        """[B, T, T] float32 → [B, 1, T, T], once for all layers."""
        return bias_BTT.astype(dtype).unsqueeze(1)

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        from paddle.nn.attention import SDPBackend, sdpa_kernel  # older plugins' Paddle lacks it: then the probe fails

        # Mixed precision may have left float32, as behind a bias.
        q, k, v = (x.astype(self.bias_B1TT.dtype) for x in (q_BTND, k_BTKD, v_BTKD))
        rate, numbers = (self.dropout.rate, self.dropout.numbers()) if self.dropout else (0.0, nullcontext())
        with numbers, sdpa_kernel(SDPBackend[self.backend]):
            context_BTND = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias_B1TT, dropout_p=rate)
        return context_BTND.astype(v_BTKD.dtype)


class FlashPrefill(FlashAttention):
    """Flash attention that keeps the keys and values [K, B, T, D] of one layer as a cache's prefix."""

    def __call__(self, q_BTND: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        self.keys, self.values = (x.transpose([2, 0, 1, 3]) for x in (k_BTKD, v_BTKD))
        return super().__call__(q_BTND, k_BTKD, v_BTKD)


FlashAttention.prefill = FlashPrefill


def attention_class(dtype: str, head_dim: int, n_rep: int) -> type[DenseAttention] | type[FlashAttention]:
    """The attention of this device: classes with `bias` and `prefill`. A graph, which any device may run, is dense."""
    if paddle.in_dynamic_mode() and flash_fault(paddle.get_device(), dtype, head_dim, n_rep) is None:
        return FlashAttention
    return DenseAttention


def compute_dtype(weight: Tensor) -> str:
    """What matmuls compute in: the dtype of mixed precision within it, else that of the weights."""
    if paddle.in_dynamic_mode() and paddle.is_autocast_enabled():
        return paddle.get_autocast_dtype()
    return str(weight.dtype).removeprefix("paddle.")


@lru_cache
def flash_fault(device: str, dtype: str, head_dim: int, n_rep: int) -> str | None:
    """Why flash attention is not taken on the current device, or None.

    Args:
        device: the current one, as paddle.get_device() names it.
    """
    if device == "cpu":
        return "a CPU gains nothing by it"
    if dtype not in HALF_DTYPES:
        return f"no kernel computes in {dtype}"
    return _trial(dtype, head_dim, n_rep)


def _trial(dtype: str, head_dim: int, n_rep: int) -> str | None:
    """Runs it on a few numbers, within a tile and beyond, under every kind of mask; the process stays as it was."""
    random_state = paddle.get_rng_state()
    try:
        with paddle.enable_grad(), paddle.amp.auto_cast(enable=False), paddle.utils.unique_name.guard():
            for columns in (5, TILE + 3):
                runs = [
                    trial_run(attention, dtype, head_dim, n_rep, columns)
                    for attention in (FlashAttention, DenseAttention)
                ]
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


def trial_run(attention, dtype: str, head_dim: int, n_rep: int, columns: int) -> list[Tensor]:
    """Context and gradients of queries, keys and values, of four rows that see different columns.

    A causal row, one that sees a prefix, one padded on the left and one padded on the right; padding, whose context
    nobody reads, is zero.
    """
    column_T = paddle.arange(columns, dtype="int64")
    pads = paddle.to_tensor([[0, 0], [0, 0], [2, 0], [0, 2]])
    mask_BT = ((column_T >= pads[:, :1]) & (column_T < columns - pads[:, 1:])).astype("int64")
    bias_BTT = attention_bias(mask_BT, paddle.to_tensor([0, 2, 3, 1]))
    q, k, v = (_waves(4, columns, heads, head_dim, start, dtype) for start, heads in enumerate((2 * n_rep, 2, 2)))
    attention_fn = attention(attention.bias(bias_BTT, n_rep, dtype), n_rep)
    context = attention_fn(q, k, v) * mask_BT.astype(dtype).reshape([4, columns, 1, 1])
    (context * _waves(*context.shape, 3, dtype).detach()).sum().backward()
    return [context, q.grad, k.grad, v.grad]


def print_choice(device: str) -> None:
    """A line for each half precision and kind of head: which attention the device gets, and why."""
    before = paddle.get_device()
    paddle.set_device(device)
    for dtype, (kind, (head_dim, n_rep)) in product(HALF_DTYPES, KINDS.items()):
        fault = flash_fault(paddle.get_device(), dtype, head_dim, n_rep)
        choice = "flash  (it gives what dense attention gives)" if fault is None else f"dense  (no flash: {fault})"
        print(f"attention of {kind} in {dtype}: {choice}")
    paddle.set_device(before)


def _waves(rows: int, columns: int, heads: int, width: int, start: int, dtype: str) -> Tensor:
    """Numbers in -1..1 [rows, columns, heads, width] that need no generator, and a gradient of their own."""
    count = rows * columns * heads * width
    x = (paddle.arange(count, dtype="float32") * 0.7 + start).sin().reshape([rows, columns, heads, width]).astype(dtype)
    x.stop_gradient = False
    return x

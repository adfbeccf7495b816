"""The few words that let one piece of code run eagerly and be traced into a static graph.

Nothing here looks at source code: loops and branches are Paddle's own `while_loop` and `cond`, which run as plain
Python in eager mode and become graph operators while a program is being built.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import Tensor, nn
from paddle.static.nn import cond
from paddle.static.nn import while_loop as traced_while_loop

__all__ = ["cond", "dim", "empty_axis", "save_graph", "while_loop"]


def while_loop(goes_on: Callable[..., Tensor], step: Callable[..., list[Tensor]], state: list[Tensor]) -> list[Tensor]:
    """`step` as long as `goes_on`: a loop of the graph while one is traced, else Python's.

    Paddle's own does run eagerly, too, but copies the whole state, cache included, after every step.
    """
    if not paddle.in_dynamic_mode():
        return traced_while_loop(goes_on, step, state)
    while goes_on(*state):
        state = step(*state)
    return state


def dim(x: Tensor, axis: int) -> int | Tensor:
    """Size of an axis: an int where it is known, else (in a graph, with a size given at run time) a 0-D tensor."""
    size = x.shape[axis]
    return size if size >= 0 else paddle.shape(x)[axis]


def empty_axis() -> int | Tensor:
    """A zero for the size of an axis that a loop will grow; a graph must not take it for a constant."""
    return 0 if paddle.in_dynamic_mode() else paddle.zeros([], "int32")


def save_graph(layer: nn.Layer, input_spec: list, prefix: Path) -> None:
    """Traces a layer, and writes `prefix`.json and `prefix`.pdiparams."""
    # Our code is built of traceable operators; Paddle need not, and must not, rewrite its source.
    paddle.jit.ignore_module([module for name, module in sys.modules.items() if name.split(".")[0] == "glm"])
    static = paddle.jit.to_static(layer, input_spec=input_spec, full_graph=True)
    paddle.jit.save(static, str(prefix))

"""The few words that let one piece of code run eagerly and be traced into a static graph.

Nothing here looks at source code: loops and branches are Paddle's own `while_loop` and `cond`, which run as plain
Python in eager mode and become graph operators while a program is being built.
"""

import paddle
from paddle import Tensor
from paddle.static.nn import cond, while_loop

__all__ = ["cond", "dim", "empty_axis", "while_loop"]


def dim(x: Tensor, axis: int) -> int | Tensor:
    """Size of an axis: an int where it is known, else (in a graph, with a size given at run time) a 0-D tensor."""
    size = x.shape[axis]
    return size if size >= 0 else paddle.shape(x)[axis]


def empty_axis() -> int | Tensor:
    """A zero for the size of an axis that a loop will grow; a graph must not take it for a constant."""
    return 0 if paddle.in_dynamic_mode() else paddle.zeros([], "int32")

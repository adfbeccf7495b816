"""Control flow that runs eagerly and traces into a static graph.

Nothing here looks at source code: loops and branches are Paddle's own `while_loop` and `cond`, which run as plain
Python in eager mode and become graph operators while a program is being built.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import Tensor, nn
from paddle.static.nn import cond as traced_cond
from paddle.static.nn import while_loop as traced_while_loop

__all__ = ["cond", "dim", "empty_axis", "known", "save_graph", "while_loop"]

# Steps of an eager loop that a device is given before the host waits for what they decided.
DEVICE_SYNC_INTERVAL = 8


def while_loop(
    continues: Callable[..., Tensor],
    step: Callable[..., list[Tensor]],
    state: list[Tensor],
    most: int | Tensor,
    kept: int,
) -> list[Tensor]:
    """`step` as long as `continues`: a loop of the graph while one is traced, else Python's.

    Paddle's own does run eagerly, too, but copies the whole state, cache included, after every step. On a device,
    several steps are queued between two host syncs, and the steps that were too many are dropped.

    Args:
        continues: a 0-D bool tensor; once false it stays so, and it is after `most` steps.
        kept: how many tensors of the state are wanted at the end; the others may hold more steps than were needed.

    Returns:
        In a graph the state, else its first `kept` tensors.
    """
    if not paddle.in_dynamic_mode():
        return traced_while_loop(continues, step, state)
    if not continues(*state):
        return state[:kept]
    left = int(most)
    while True:
        states = []
        going = paddle.zeros([], "int64")
        for _ in range(min(sync_interval(), left)):
            state = step(*state)
            states.append(state[:kept])
            going = going + continues(*state).astype("int64")
        left -= len(states)
        needed = int(going)
        if needed < len(states):
            return states[needed]


def sync_interval() -> int:
    """How many steps an eager loop takes between host syncs; on a CPU there is nothing to wait for."""
    return 1 if paddle.get_device() == "cpu" else DEVICE_SYNC_INTERVAL


def cond(choice: bool | Tensor, yes: Callable, no: Callable):
    """A branch of the graph where the choice is a tensor, else Python's."""
    if isinstance(choice, bool):
        return yes() if choice else no()
    return traced_cond(choice, yes, no)


def known(x: Tensor) -> bool | int | float | Tensor:
    """The number that a 0-D tensor holds, read once so that nobody waits for it in a loop; in a graph the tensor."""
    return x.item() if paddle.in_dynamic_mode() else x


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

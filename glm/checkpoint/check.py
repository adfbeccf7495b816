"""Does a state fit the model? Nothing is trained or served on weights that do not."""

from collections.abc import Mapping
from math import prod

import numpy as np

from glm.errors import GLMError

_SHOWN = 5


def check_state(state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Compare names, shapes and the number of parameters with what the model needs.

    Args:
        state: weights by in-memory name.
        expected: shapes by in-memory name.
        source: the file or directory, for the message.
    Raises:
        GLMError: one line with every kind of difference, up to five names of each, and both parameter counts.
    """
    found = {name: tuple(array.shape) for name, array in state.items()}
    shapes = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != tuple(shape)
    ]
    problems = [
        _list("missing", [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]),
        _list("unexpected", [f"{name} {list(shape)}" for name, shape in found.items() if name not in expected]),
        _list("of the wrong shape", shapes),
    ]
    if any(problems):
        counts = sum(map(prod, found.values())), sum(map(prod, expected.values()))
        raise GLMError(
            f"{source} does not fit the model: {'; '.join(filter(None, problems))}; it holds {counts[0]:,} parameters, "
            f"the model has {counts[1]:,}: check that config.json belongs to these weights"
        )


def _list(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {kind}: {', '.join(items[:_SHOWN])}{more}"

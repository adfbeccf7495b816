"""Stand-ins for pickles that may name any class, of which only plain values and tensors are wanted.

Megatron's checkpoints hold its arguments and the optimizer's state beside the weights: enums, dtypes and functions of
whatever code wrote them. Every name that is not known leads to an inert object, and nothing is imported or called.
"""

import pickle
from collections.abc import Mapping
from typing import Any

from glm.pickles.torch_file import TORCH_NAMES, storage_of
from glm.pickles.unpickle import StandIn


class Unknown:
    """An object of a class that nobody here knows, and every such class. It takes anything, and keeps nothing."""

    def __init__(self, *arguments, **keywords):
        pass

    def __new__(cls, *arguments, **keywords):
        return super().__new__(cls)

    def __call__(self, *arguments, **keywords):
        return self

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item) -> None:
        pass

    extend = add = update = append


class Fields:
    """Stands for argparse.Namespace and types.SimpleNamespace.

    Attributes:
        values: by name.
    """

    __slots__ = ("values",)

    def __new__(cls, *arguments):
        self = super().__new__(cls)
        self.values = {}
        return self

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"arguments that are a {type(state).__name__}")
        self.values = {name: value for name, value in state.items() if isinstance(name, str)}


class AnyNames(dict):
    """A table of names that has an entry for every one."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: tuple[str, str]) -> type:
        return Unknown


def _tensor(storage, *arguments):
    """A tensor, or what is not known where its storage is not: torch has types of numbers that NumPy has not."""
    return Unknown() if isinstance(storage, Unknown) else _REBUILD(storage, *arguments)


def any_storage(identifier: Any) -> Any:
    """`storage_of`, and for a storage of an unknown type an unknown object."""
    try:
        return storage_of(identifier)
    except (pickle.UnpicklingError, TypeError, ValueError):
        return Unknown()


_REBUILD = TORCH_NAMES["torch._utils", "_rebuild_tensor_v2"]
_SETS = {("builtins", "set"): set, ("builtins", "frozenset"): frozenset}
_DTYPES = {name: name for name in ("float32", "bfloat16", "float16")} | {"float": "float32", "half": "float16"}
# What is wanted of Megatron's files; a dtype is its name.
ANY_NAMES: Mapping[tuple[str, str], Any] = AnyNames(
    {
        **TORCH_NAMES,
        **{name: StandIn(_tensor) for name, made in TORCH_NAMES.items() if made is _REBUILD},
        **{
            (module, name): StandIn(make) for (_, name), make in _SETS.items() for module in ("builtins", "__builtin__")
        },
        **{("torch", name): value for name, value in _DTYPES.items()},
        ("argparse", "Namespace"): Fields,
        ("types", "SimpleNamespace"): Fields,
    }
)

"""Which tests start processes, read off their code, so that nobody has to keep a list.

A test is marked `process` where its function, a fixture it asks for, or anything in tests/ that these call uses
`subprocess`, `multiprocessing` or `os.fork`. No other test may start a process: the interpreter refuses it.
"""

import inspect
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
MODULES = {"subprocess", "multiprocessing"}
FUNCTIONS = {"fork", "system", "popen", "posix_spawn", "posix_spawnp"}  # of os
EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.system", "os.posix_spawn", "os.spawn"}

_known: dict[CodeType, bool] = {}
_refused = False


def starts_processes(item: pytest.Function) -> bool:
    """Whether a test, or a fixture of it, starts a process or calls what does."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    return any(map(reaches, (item.obj, *(each.func for found in definitions for each in found))))


def reaches(thing: Any) -> bool:
    return any(map(_function_reaches, _functions(thing)))


def _functions(thing: Any) -> Iterator[FunctionType]:
    """What of tests/ runs when a thing is called."""
    thing = inspect.unwrap(thing.func if isinstance(thing, partial) else thing)
    if inspect.ismethod(thing):
        thing = thing.__func__
    if isinstance(thing, FunctionType):
        if Path(thing.__code__.co_filename).is_relative_to(TESTS):
            yield thing
        return
    kind = thing if isinstance(thing, type) else type(thing)
    if (file := getattr(sys.modules.get(kind.__module__), "__file__", None)) and Path(file).is_relative_to(TESTS):
        for member in vars(kind).values():
            if isinstance(member := inspect.unwrap(getattr(member, "__func__", member)), FunctionType):
                yield member


def _function_reaches(function: FunctionType) -> bool:
    code = function.__code__
    if code not in _known:
        _known[code] = False  # a function that calls itself
        _known[code] = any(_starts(name, names, function) for names in _names(code) for name in names)
    return _known[code]


def _names(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The names that a function asks for, also in functions inside it."""
    yield (*code.co_names, *code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _starts(name: str, names: tuple[str, ...], function: FunctionType) -> bool:
    if name in MODULES or (name in FUNCTIONS and "os" in names):
        return True
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    thing = cells[name].cell_contents if name in cells else function.__globals__.get(name)
    if isinstance(thing, ModuleType):
        ours = (getattr(thing, "__file__", None) or "").startswith(str(TESTS))
        return ours and any(reaches(vars(thing)[other]) for other in names if other in vars(thing))
    if getattr(thing, "__module__", None) in MODULES:  # from subprocess import run
        return True
    return thing is not None and reaches(thing)


class ProcessStarted(RuntimeError):
    """A test that is not marked `process` started one."""


def refuse_processes() -> None:
    """From now on a process starts in the tests alone that are marked."""
    sys.addaudithook(_watch)


def _watch(event: str, arguments: tuple) -> None:
    if _refused and event in EVENTS and not _importing():
        raise ProcessStarted(f"{event}: mark this test with @pytest.mark.process, tests/tiers.py does not see why")


def _importing() -> bool:
    """Whether a module is being imported: Paddle looks for a compiler then."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def watch(item: pytest.Item | None) -> None:
    """Says which test runs from now on, None for none."""
    global _refused
    _refused = item is not None and item.get_closest_marker("process") is None

"""The house of glm/: no room imports one that stands above it or beside it, so there is no circle.

What is read are the imports of every file, also inside functions and under TYPE_CHECKING, and modules that are named in
strings to be imported later. docs/architecture.md shows the same floors.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: a room may import the rooms of the floors below its own.
FLOORS = (
    ("errors",),
    ("files",),
    ("device", "pickles"),
    ("kernels",),
    ("distributed",),
    ("config", "runtime"),
    ("tokenizers", "memory"),
    ("checkpoint",),
    ("model",),
    ("generation",),
    ("encoding",),
    ("datasets", "engine", "export"),
    ("evaluation",),
    ("inference",),
    ("api", "cli", "serving"),
    ("training",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@dataclass(frozen=True)
class Found:
    """One import: `file` under glm/, line, the module, and whether a command asks for it (`__main__.py`, `main`)."""

    file: str
    line: int
    module: str
    command: bool

    @property
    def room(self) -> str:
        return room_of(self.file)

    @property
    def target(self) -> str:
        return self.module.split(".")[1]

    def __str__(self):
        return f"{self.file}:{self.line} imports {self.module}"


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def imports(package: Path) -> list[Found]:
    """Every import of one file of the package by another, and those of argparse; the package's own door left out."""
    found = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        if file != "__init__.py":
            found += [Found(file, *each) for each in imports_of(path.read_text("utf-8"), file.endswith("__main__.py"))]
    return found


def imports_of(source: str, command: bool = False) -> Iterator[tuple[int, str, bool]]:
    """(line, module, command) of a source."""
    yield from _walk(ast.parse(source), command)


def _walk(node: ast.AST, command: bool) -> Iterator[tuple[int, str, bool]]:
    command |= isinstance(node, ast.FunctionDef) and node.name == "main"
    for module in _modules(node):
        if re.match(r"glm\.|argparse\b", module):
            yield node.lineno, module, command
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, command)


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "this package names its modules in full"
        return [f"glm.{alias.name}" for alias in node.names] if node.module == "glm" else [node.module]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.findall(r"^(glm(?:\.\w+)+)(?::\w+)?$", node.value)  # what `import_module` will be given
    return []


def upward(found: list[Found]) -> list[Found]:
    """Imports of a room that stands above, or beside, the importer's."""
    return [
        each
        for each in found
        if each.module != "argparse" and each.room != each.target and not each.command
        if FLOOR_OF[each.target] >= FLOOR_OF[each.room]
    ]


def circle(found: list[Found]) -> list[str]:
    """The rooms of a circle, if there is one."""
    graph: dict[str, set[str]] = {}
    for each in found:
        if each.module != "argparse" and each.room != each.target and not each.command:
            graph.setdefault(each.room, set()).add(each.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def parses_flags_too_low(found: list[Found]) -> set[str]:
    """Files below the command line that import argparse."""
    return {
        each.file
        for each in found
        if each.module.startswith("argparse") and not each.command and FLOOR_OF[each.room] < FLOOR_OF["cli"]
    }


@pytest.fixture(scope="module")
def found() -> list[Found]:
    return imports(ROOT / "glm")


def test_every_room_has_a_floor(found):
    files = (path.relative_to(ROOT / "glm").as_posix() for path in (ROOT / "glm").rglob("*.py"))
    assert {room_of(file) for file in files} - {"__init__"} == set(FLOOR_OF)
    assert {each.target for each in found if each.module != "argparse"} <= set(FLOOR_OF)


def test_no_room_imports_one_above_it(found):
    wrong = list(upward(found))
    assert not wrong, "\n".join(map(str, wrong))


def test_there_is_no_circle(found):
    assert not circle(found)


def test_flags_are_parsed_by_the_command_line(found):
    assert parses_flags_too_low(found) == set()


def test_enough_was_read(found):
    assert len(found) > 400
    assert len({each.file for each in found}) > 100


def test_the_docs_show_this_house():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    shown = {int(number): set(re.findall(r"\w+", rooms)) for number, rooms in rows}
    assert shown == {number: set(rooms) for number, rooms in enumerate(FLOORS)}


def made(folder: Path, **sources: str) -> list[Found]:
    """The imports of a house of one file a room."""
    for room, source in sources.items():
        (folder / room).mkdir()
        (folder / room / "part.py").write_text(source)
    return imports(folder)


@pytest.mark.parametrize(
    "source",
    [
        "from glm.model.network import GLMForCausalLM",
        "from glm import model",
        "import glm.model.layers as layers",
        "def late():\n    from glm.model.layers import Block",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from glm.model.layers import Block",
        'STEP = "glm.model.layers:Block"',
    ],
)
def test_an_import_from_above_is_found(source, tmp_path):
    found = made(tmp_path, files=source, training=source)
    assert [(each.room, each.target) for each in upward(found)] == [("files", "model")]


def test_a_neighbour_is_found(tmp_path):
    assert [str(each) for each in upward(made(tmp_path, files="import glm.device.tuning"))] == [
        "files/part.py:1 imports glm.device.tuning"
    ]


def test_a_circle_is_found(tmp_path):
    sources = {
        "files": "import glm.config.fields",
        "config": "import glm.model.layers",
        "model": "import glm.files.sizes",
    }
    assert set(circle(made(tmp_path, **sources))) == set(sources)


def test_argparse_is_found(tmp_path):
    found = made(tmp_path, inference="from argparse import Namespace", cli="import argparse")
    assert parses_flags_too_low(found) == {"inference/part.py"}


def test_a_command_may_use_what_it_likes(tmp_path):
    assert not upward(
        made(tmp_path, device="def main():\n    from glm.cli.script import ScriptParser\n    import argparse")
    )

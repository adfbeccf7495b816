"""A script's arguments from a JSON or YAML file: `script.py run.yaml --more flags`, what stands behind it wins."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from glm.errors import GLMError, UsageError
from glm.files.json_files import parse_json, read_text

SUFFIXES = (".json", ".yaml", ".yml")
CORRECT = "correct the file of arguments"


def names_file(argv: Sequence[str]) -> bool:
    """Whether the first word is a file of arguments."""
    return bool(argv) and not argv[0].startswith("-") and argv[0].endswith(SUFFIXES)


def expand(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The words of a command line, those of a file in its place.

    A name in the file is a flag of the parser; a flag without a value is true or false there. A text or a list under
    the name of the parser's positional arguments stands for these where the command line has none.

    Raises:
        UsageError: a file that cannot be read, or holds no object of names and values.
    """
    if not names_file(argv):
        return list(argv)
    content = _read(Path(argv[0]))
    given = {word.split("=")[0] for word in argv[1:]}
    words = []
    for name, value in content.items():
        replaced = f"--{name}" in given and _gathers(parser._option_string_actions.get(f"--{name}"))
        if value is not None and not replaced:  # a flag that gathers values would have both
            words += _words(name, value, parser)
    return [*words, *argv[1:]]


def command_line(argv: Sequence[str]) -> str:
    """A script's arguments, one flag per line; those of a JSON or YAML file are the lines of the file."""
    lines = ""
    if names_file(argv) and Path(argv[0]).is_file():
        lines, argv = Path(argv[0]).read_text(encoding="utf-8", errors="replace"), argv[1:]
    return (lines + "".join(f"\n{word}" if word.startswith("--") else f" {word}" for word in argv)).strip()


def repeated_flags(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """A line for each flag of which a command line has several and only the last one counts."""
    given: dict[str, list[str]] = {}
    for index, word in enumerate(argv):
        name, has_value, value = word.partition("=")
        action = parser._option_string_actions.get(name)
        if word == "--":
            break
        if action is None or _gathers(action):
            continue
        values = [value] if has_value else _values_behind(argv[index + 1 :], action, parser)
        given.setdefault(action.dest, []).append(" ".join((name, *values)))
    return [
        f"{uses[-1].split()[0]} is given {len(uses)} times: {uses[-1]} counts" for uses in given.values() if uses[1:]
    ]


def _values_behind(words: Sequence[str], action: argparse.Action, parser: argparse.ArgumentParser) -> list[str]:
    flags = (index for index, word in enumerate(words) if word.partition("=")[0] in parser._option_string_actions)
    most = {None: 1, "?": 1}.get(action.nargs, action.nargs)
    end = next(flags, len(words))
    return list(words[: min(end, most) if isinstance(most, int) else end])


def _gathers(action: argparse.Action | None) -> bool:
    """Whether a flag may be given again, and adds to what it has."""
    return isinstance(action, (argparse._AppendAction, argparse._ExtendAction, argparse._CountAction))


def _read(path: Path) -> dict:
    try:
        content = parse_json(path, CORRECT) if path.suffix == ".json" else _load_yaml(path)
    except GLMError as error:
        raise UsageError(str(error)) from None
    if not isinstance(content, dict):
        held = "nothing" if content is None else f"a {type(content).__name__}"
        raise UsageError(f"{path} holds {held}; one object of argument names and values is needed")
    return content


def _load_yaml(path: Path):
    import yaml

    try:
        return yaml.safe_load(read_text(path, CORRECT))
    except yaml.YAMLError as error:
        raise GLMError(f"{path} is not valid YAML ({' '.join(str(error).split())}): {CORRECT}") from None


def _words(name: str, value, parser: argparse.ArgumentParser) -> list[str]:
    values = [_word(item) for item in (value if isinstance(value, list) else [value])]
    positional = next((action for action in parser._actions if action.dest == name and not action.option_strings), None)
    if positional:
        positional.default = values
        return []
    action = parser._option_string_actions.get(f"--{name}")
    if _gathers(action):
        return [f"--{name}={word}" for word in values]
    if action is None or action.nargs != 0:
        if len(values) == 1 and values[0].startswith("-"):
            return [f"--{name}={values[0]}"]  # it would pass for a flag
        return [f"--{name}", *values]
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r} in the file of arguments, and must be true or false")
    if value:
        return [f"--{name}"]
    return [f"--no-{name}"] if f"--no-{name}" in action.option_strings else []


def _word(value) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)

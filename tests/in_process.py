"""A command of this project in this process, as a shell would see it."""

import sys
from collections.abc import Callable

from glm.cli.script import run_script


def run_main(main: Callable[[], None], monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["__main__.py", *arguments])
    code = 0
    try:
        run_script(main)
    except SystemExit as end:
        code = end.code or 0
    streams = capsys.readouterr()
    return code, streams.out, streams.err

"""How every script begins and ends: --help that teaches, one line for an error, and exit code 1, or 2 for usage."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from glm.errors import GLMError, UsageError


class ScriptParser(argparse.ArgumentParser):
    """Flags of a script that needs nothing of PaddleNLP's Trainer.

    Args:
        description: first lines of --help, examples included.
    """

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> None:
        raise UsageError(f"{message} (see --help)")

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise unknown_argument(unknown[0], self._option_string_actions)
        return parsed


def unknown_argument(word: str, known: Iterable[str]) -> UsageError:
    """The error for an argument that no script knows, with the flag that was meant, if one comes close."""
    close = get_close_matches(word.split("=")[0].lstrip("-"), [flag.lstrip("-") for flag in known], n=1, cutoff=0.7)
    hint = f"; did you mean --{close[0]}?" if close else ""
    return UsageError(f"unknown argument {word}{hint} (see --help)")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside the help texts, and the description's line breaks kept."""


def _be_quiet() -> None:
    """Hides what Paddle and PaddleNLP say while they are imported and used; `--debug` shows it."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("GLOG_minloglevel", "2")
    logging.getLogger("PaddleNLP").addFilter(lambda record: record.levelno >= logging.ERROR)


if "--debug" not in sys.argv:
    _be_quiet()


def run_script(main: Callable[[], None]) -> None:
    """Runs `main`; a GLMError or a failing system call becomes one line on standard error.

    `--debug` among the arguments shows the traceback as well.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (GLMError, OSError, MemoryError) as error:
        _end_bars()
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _end_bars() -> None:
    """Ends the line of every progress bar that still stands."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: choose a smaller batch, shorter texts or a smaller model"
    return " ".join(str(error).split())

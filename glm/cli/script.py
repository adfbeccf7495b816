"""How every script begins and ends: --help that teaches, one line for an error, and exit code 1, or 2 for usage."""

import argparse
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from difflib import get_close_matches
from typing import NoReturn

import glm
from glm.cli.argument_file import expand, repeated_flags
from glm.distributed.processes import ended_process, ending_at_once, leave_with, process_count, process_rank
from glm.errors import GLMError, UsageError
from glm.files.sizes import size_in_bytes

# `(External) CustomDevice error, the error code is : 2. (at /paddle/…/custom_device.cc:799)`, alone or in a report.
_PADDLE_FAULT = re.compile(r"\([A-Z]\w+\) +([^{}\n]+?)\s*(?:\[Hint: [^\]]*\]\s*)?\(at /[^)]*:\d+\)")


class ScriptParser(argparse.ArgumentParser):
    """Flags of a script that needs nothing of PaddleNLP's Trainer.

    Args:
        description: first lines of --help, examples included.
        from_file: whether the first word may be a JSON or YAML file of arguments (glm/cli/argument_file.py).
        prog, usage: of --help; a module that `python -m` runs is not called as its file is.
    """

    def __init__(self, description: str, from_file: bool = True, prog: str | None = None, usage: str | None = None):
        super().__init__(prog, usage, description, formatter_class=HelpFormatter, allow_abbrev=False)
        self._from_file = from_file
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> None:
        raise UsageError(f"{message} (see --help)")

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        for line in repeated_flags(words, self) if process_rank() == 0 else ():
            print(line, file=sys.stderr, flush=True)
        words = expand(words, self) if self._from_file else words
        parsed, unknown = self.parse_known_args(words, namespace)
        if unknown:
            raise unknown_argument(unknown[0], self._option_string_actions)
        return parsed


def size(text: str) -> int:
    """The type of a flag that takes bytes: 5GB, 500MiB."""
    try:
        return size_in_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def true_or_false(text: str) -> bool:
    """The type of a flag that is given with its value."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def add_thinking_argument(group: argparse._ActionsContainer) -> None:
    """--enable_thinking, which the model's chat template decides where it is not given."""
    group.add_argument(
        "--enable_thinking",
        type=true_or_false,
        metavar="true|false",
        help="think before an answer, or do not; for chat models that can do both; default: the chat template's",
    )


def unknown_argument(word: str, known: Iterable[str]) -> UsageError:
    """The error for an argument that no script knows, with the flag that was meant, if one comes close."""
    close = get_close_matches(word.split("=")[0].lstrip("-"), [flag.lstrip("-") for flag in known], n=1, cutoff=0.7)
    hint = f"; did you mean --{close[0]}?" if close else ""
    return UsageError(f"unknown argument {word}{hint} (see --help)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside the help texts, where there is something to tell, and the description's line breaks kept."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _be_quiet() -> None:
    """Hides what Paddle and PaddleNLP say while they are imported and used; `--debug` shows it."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("GLOG_minloglevel", "2")
    for name in ("PaddleNLP", "paddle.distributed.fleet.utils.log_util"):
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)


def _be_quiet_in_a_launch() -> None:
    """Paddle writes the flags that it has changed itself to standard error, past every logger."""
    from paddle.distributed import parallel

    parallel._print_modified_flags = lambda flags: None


if "--debug" not in sys.argv:
    _be_quiet()


def run_script(main: Callable[[], None]) -> None:
    """Runs `main`; a GLMError or a failing system call becomes one line on standard error.

    The process is tuned as a whole (`glm.tune`).

    In a launch of several processes so does an error of Paddle, because most come from a collective whose other rank
    has ended, and the others are told. `--debug` among the arguments shows the traceback as well.
    """
    glm.tune()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if process_count() > 1 and "--debug" not in sys.argv:
        _be_quiet_in_a_launch()
    launched = process_count() > 1 and main.__module__ == "__main__"
    with ending_at_once() if launched else nullcontext():
        _run(main)


def _run(main: Callable[[], None]) -> None:
    try:
        main()
    except KeyboardInterrupt:
        _leave_interrupted()
    except BrokenPipeError:  # who read the output has left, as `head` does
        leave_with("its output was closed")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if "KeyboardInterrupt" in str(error):  # within a backward pass Paddle wraps it in an error of its own
            _leave_interrupted()
        if not _has_a_line(error):
            raise
        _end_bars()
        if "--debug" in sys.argv:
            traceback.print_exc()
        line = _one_line(error)
        leave_with(line)  # first: notify peers, so that their errors refer to this one
        print(f"error: {line}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _leave_interrupted() -> NoReturn:
    _end_bars()
    leave_with("interrupted")
    sys.exit(130)


def _has_a_line(error: Exception) -> bool:
    expected = isinstance(error, (GLMError, OSError, MemoryError))
    return expected or (process_count() > 1 and bool(_PADDLE_FAULT.search(str(error))))


def _end_bars() -> None:
    """Ends the line of every progress bar that still stands."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: choose a smaller batch, shorter texts or a smaller model"
    fault = None if isinstance(error, GLMError) else _PADDLE_FAULT.search(str(error))
    if fault and process_count() > 1:
        reason = f"rank {process_rank()} failed in Paddle: {fault[1].rstrip('.')}; --debug shows where"
        return ended_process() or f"{reason}; no other rank of the {process_count()} is known to have ended"
    return " ".join(str(error).split())

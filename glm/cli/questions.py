"""Questions from standard input: a line each, or several lines that were pasted, or that stand between two marks."""

import re
import sys

from glm.errors import GLMError

MARK = '"""'
PASTE_BEGINS, PASTE_ENDS = "\x1b[200~", "\x1b[201~"
_PASTING, _NOT_PASTING = "\x1b[?2004h", "\x1b[?2004l"
_MARKS = re.compile(f"{re.escape(PASTE_BEGINS)}|{re.escape(PASTE_ENDS)}")


def read_question() -> str:
    """The next question, without white space around it.

    A line of three quotes begins one of several lines, up to the next such line; text may follow the first three
    quotes, and then goes before the last three. What a terminal says was pasted is one question.

    Raises:
        EOFError: there is none. GLMError: the input is not UTF-8, or ends inside a question.
    """
    text = _pasted(_line("> "))
    if not text.lstrip().startswith(MARK):
        return text.strip()
    first = text.strip().removeprefix(MARK)
    if first.endswith(MARK) or "\n" in first:  # all of it on one line, or in one paste
        return first.removesuffix(MARK).strip()
    lines = [first]
    while True:
        try:
            line = _pasted(_line("… "))
        except EOFError:
            raise GLMError(f"the input ended in a question that {MARK} began: end it with a line {MARK}") from None
        # Behind a mark on a line of its own, code may end lines with quotes.
        if line.strip() == MARK or (first and line.rstrip().endswith(MARK)):
            return "\n".join([*lines, line.rstrip().removesuffix(MARK)]).strip()
        lines.append(line)


def _pasted(line: str) -> str:
    """The line, with those that follow it in what was pasted; the terminal's marks are gone."""
    lines = [line]
    while line.rfind(PASTE_BEGINS) > line.rfind(PASTE_ENDS) or (len(lines) > 1 and PASTE_ENDS not in line):
        line = _line("")
        lines.append(line)
    return _MARKS.sub("", "\n".join(lines))


def _line(prompt: str) -> str:
    """A line of standard input; several, where readline took them from a paste."""
    terminal = sys.stdin.isatty()
    marks = terminal and prompt and not _has_readline() and sys.stderr.isatty()
    if marks:
        print(_PASTING, end="", file=sys.stderr, flush=True)
    try:
        line = input(prompt if terminal else "")
        line.encode()  # in some locales Python reads what is not UTF-8 as surrogates
        return line.replace("\r", "\n")
    except UnicodeError:
        raise GLMError("standard input is not UTF-8: convert it first") from None
    finally:
        if marks:
            print(_NOT_PASTING, end="", file=sys.stderr, flush=True)


def _has_readline() -> bool:
    """Whether GNU readline edits the line: it takes pasted lines together itself."""
    try:
        import readline
    except ImportError:
        return False
    if "libedit" in (readline.__doc__ or "") or not sys.stdout.isatty():
        return False
    readline.parse_and_bind("set enable-bracketed-paste on")
    return True

"""A conversation in the terminal: what predict_generation.py --chat runs."""

import sys
import time
from collections.abc import Callable

from glm.cli.prompts import Speed
from glm.cli.questions import MARK, read_question
from glm.distributed.processes import from_rank_0, process_rank
from glm.encoding.tool_calls import THOUGHTS, Piece
from glm.errors import GLMError
from glm.inference.conversation import Conversation

HELP = f"an empty line says this; {MARK} begins and ends a question of several lines, or paste it; "
HELP += "/clear forgets the conversation; /exit or Ctrl-D ends it"


def converse(start: Callable[[], Conversation]) -> None:
    """Reads questions from standard input and prints the answers while they are generated, until the input ends.

    Every process of a launch must call it: the first one reads and prints, all generate.

    Args:
        start: a new conversation.
    """
    conversation, speaks = start(), process_rank() == 0
    if speaks and sys.stdin.isatty():
        print(HELP, file=sys.stderr)
    while (words := from_rank_0(_read)) and words[0] != "/exit":
        query = words[0]
        if query == "/clear":
            conversation = start()
        elif query:
            _answer(conversation, query, speaks)
        elif speaks:
            print(HELP, file=sys.stderr)


def _read() -> list[str]:
    """The next question, nothing at the end of the input."""
    try:
        return [read_question()]
    except EOFError:
        return []
    except KeyboardInterrupt:
        return ["/exit"]


def _turned(thinking: bool, piece: Piece) -> str:
    """What stands between pieces where thoughts begin or end."""
    begins = piece.field == THOUGHTS
    if begins == thinking:
        return ""
    return _switch(begins) if begins else f"{_switch(begins)}\n\n"


def _switch(dim: bool) -> str:
    """Thoughts are dim on a terminal; elsewhere an empty line behind them sets them apart."""
    return ("\x1b[2m" if dim else "\x1b[22m") if sys.stdout.isatty() else ""


def _answer(conversation: Conversation, query: str, speaks: bool) -> None:
    begin = time.perf_counter()
    try:
        thinking = False
        for piece in conversation.pieces(query):
            if speaks:
                print(_turned(thinking, piece), piece.text, sep="", end="", flush=True)
            thinking = piece.field == THOUGHTS
        if speaks and thinking:
            print(_switch(False), end="")
    except GLMError as error:
        # A turn that does not fit ends nothing: the user says something else.
        if speaks:
            print(f"error: {error}", file=sys.stderr)
        return
    except KeyboardInterrupt:
        # The answer is left where it stands, and is not remembered.
        if speaks:
            print(_switch(False), end="", flush=True)
            print("\n(stopped)", file=sys.stderr)
        return
    if speaks:
        print()
        print(Speed(conversation.tokens, time.perf_counter() - begin), file=sys.stderr)

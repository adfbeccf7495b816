"""A conversation in the terminal: what predict_generation.py --chat runs."""

import sys
import time
from collections.abc import Callable

from glm.cli.prompts import Speed
from glm.cli.questions import MARK, read_question
from glm.distributed.processes import from_rank_0, process_rank
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


def _answer(conversation: Conversation, query: str, speaks: bool) -> None:
    begin = time.perf_counter()
    try:
        for piece in conversation.ask(query):
            if speaks:
                print(piece, end="", flush=True)
    except GLMError as error:
        # A turn that does not fit ends nothing: the user says something else.
        if speaks:
            print(f"error: {error}", file=sys.stderr)
        return
    except KeyboardInterrupt:
        # The answer is left where it stands, and is not remembered.
        if speaks:
            print("\n(stopped)", file=sys.stderr)
        return
    if speaks:
        print()
        print(Speed(conversation.tokens, time.perf_counter() - begin), file=sys.stderr)

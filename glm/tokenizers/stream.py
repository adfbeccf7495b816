"""Text that appears while ids arrive, without half a character."""

from __future__ import annotations

from typing import Protocol

REPLACEMENT = "\ufffd"
# An unfinished UTF-8 character is at most three bytes, each shown as one replacement character.
LONGEST_UNFINISHED = 3


class Decoder(Protocol):
    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...


class WithSpecialTokens:
    """A decoder whose text has special tokens in it."""

    def __init__(self, tokenizer: Decoder):
        self._tokenizer = tokenizer

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class StreamDecoder:
    """Gives the text each new id completes; everything joined is the decoded text of all ids.

    Only the ids since the last visible text are decoded again, so the cost of an id does not grow with the text.
    Special tokens are skipped.
    """

    def __init__(self, tokenizer: Decoder):
        self._tokenizer = tokenizer
        self._reset()

    def _reset(self) -> None:
        # The window starts with ids whose text is out already: what a piece shows can depend on the one before it.
        self._window: list[int] = []
        self._shown = ""
        self._context = 0

    def put(self, token_id: int) -> str:
        """The text that `token_id` completes, "" while a character is unfinished."""
        self._window.append(int(token_id))
        text = self._tokenizer.decode(self._window, skip_special_tokens=True)
        unfinished = min(len(text) - len(text.rstrip(REPLACEMENT)), LONGEST_UNFINISHED)
        ready = text[: len(text) - unfinished]
        # Every emitted text stays a prefix of the later ones: only the unfinished tail can still change.
        new = ready[len(self._shown) :]
        self._shown += new
        if not unfinished and new.strip():
            self._drop_context()
        return new

    def _drop_context(self) -> None:
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._shown = self._tokenizer.decode(self._window, skip_special_tokens=True)

    def end(self) -> str:
        """What was held back; the decoder is ready for the next text."""
        rest = self._tokenizer.decode(self._window, skip_special_tokens=True)[len(self._shown) :]
        self._reset()
        return rest

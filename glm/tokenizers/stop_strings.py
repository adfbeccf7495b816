"""Strings that end a text, found while its tokens arrive. Imports neither paddle nor paddlenlp."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from glm.errors import UsageError
from glm.tokenizers.stream import Decoder, StreamDecoder


class StopStrings:
    """Watches one text.

    Args:
        tokenizer: decodes its ids.
        strings: what ends it; the one that is found is not part of the text.

    Attributes:
        text: what was decoded so far, up to a stop string.
        found: the stop string that ended the text.

    Raises:
        UsageError: an empty stop string.
    """

    def __init__(self, tokenizer: Decoder, strings: Sequence[str]):
        if "" in strings:
            raise UsageError("an empty stop string would end every text at once: leave it out")
        self.strings, self.text, self.found = tuple(strings), "", None
        self._decoder, self._over = StreamDecoder(tokenizer), False

    def put(self, token: int) -> bool:
        """Takes the next token of the text; says whether a stop string is complete."""
        return self._look(self._decoder.put(token))

    def end(self) -> bool:
        """Says that no token follows; what was held back of the text is certain then. Returns as `put`."""
        self._over = True
        return self._look(self._decoder.end())

    @property
    def certain(self) -> int:
        """How many characters of the text are shown however it continues: a stop string may begin behind them."""
        if self._over or self.found is not None:
            return len(self.text)
        return len(self.text) - max((overlap(self.text, string) for string in self.strings), default=0)

    def _look(self, new: str) -> bool:
        """Adds to the text; ends it at the first stop string in it."""
        if self.found is not None:
            return True
        longest = max(map(len, self.strings), default=0)
        start = max(0, len(self.text) - longest + 1)
        self.text += new
        hits = [(place, string) for string in self.strings if (place := self.text.find(string, start)) >= 0]
        if hits:
            place, self.found = min(hits)
            self.text = self.text[:place]
        return bool(hits)


class GrowingText:
    """A text that a user sees while its ids arrive: cleaned, and in pieces that stand for certain.

    Args:
        written: of a new text.
        clean: what a user sees of a text.
        stable_length: how many characters of an unfinished text `clean` gives the same, however the text continues.
    """

    def __init__(self, written: StopStrings, clean: Callable[[str], str], stable_length: Callable[[str], int]):
        self.written, self._clean, self._stable_length = written, clean, stable_length
        self._shown = 0

    def put(self, token: int) -> str:
        """What the next id makes certain; no id comes behind a stop string (`written.found`)."""
        self.written.put(token)
        text = self.written.text[: self.written.certain]
        return self._new(self._clean(text[: self._stable_length(text)]))

    def end(self, suffix: str = "") -> str:
        """The rest.

        Args:
            suffix: what belongs to the text and was not written, such as its stop string.
        """
        self.written.end()
        return self._new(self._clean(self.written.text + suffix))

    def _new(self, settled: str) -> str:
        piece, self._shown = settled[self._shown :], len(settled)
        return piece


def stream_text(
    written: StopStrings, ids: Iterable[int], clean: Callable[[str], str], stable_length: Callable[[str], int]
) -> Iterator[str]:
    """A cleaned text in pieces, as `GrowingText` gives them. No id is taken behind its end."""
    growing = GrowingText(written, clean, stable_length)
    for index in ids:
        yield growing.put(index)
        if written.found is not None:
            break
    yield growing.end()


def overlap(text: str, string: str) -> int:
    """The longest end of a text that a string begins with, the whole string left out."""
    return next((size for size in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:size])), 0)

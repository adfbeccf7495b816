"""Prompt lookup: what followed the newest tokens before is guessed to follow them again, and verified in one call.

An answer that repeats its prompt (a summary, an edit, a quotation) then takes a call for several tokens instead of one.
Guesses never change a text: what is written is what the search chooses of the logits behind the tokens before. The
guess is that of Saxena, "Prompt Lookup Decoding" (2023), the verification Leviathan et al.'s (arXiv:2211.17192), which
random numbers that are a function of their place make exact for draws, too.
"""

from collections.abc import Sequence

_SIZES = (4, 3, 2)  # of the n-grams that are looked up, the longest first
_TRIALS = 4  # calls after which it is judged whether guessing is worth its time
_REST = 64  # tokens that are written without guesses then; twice as many the next time
_NEWEST = 0.25  # share of the newest call in the means


class PromptLookup:
    """Guesses for one text, and whether they are worth their time.

    Args:
        ids: the prompt.
        most: tokens of a guess.
    """

    def __init__(self, ids: Sequence[int], most: int):
        self.most, self._ids = most, []
        self._places: dict[tuple[int, ...], int] = {}  # of an n-gram, where it was last followed by something
        self._calls, self._saved = 0, 0.0
        self._rest, self._next_rest = 0, _REST
        for token in ids:
            self.put(token)

    def put(self, token: int) -> None:
        """Takes the next token of the text."""
        for size in _SIZES:
            if len(self._ids) >= size:
                self._places[tuple(self._ids[-size:])] = len(self._ids)
        self._ids.append(token)
        self._rest = max(0, self._rest - 1)

    def guess(self, most: int, step: float) -> list[int]:
        """What may follow; [] where nothing is known, or guesses are not worth their time.

        Args:
            most: tokens that there is room for.
            step: seconds of a step without a guess; 0 = unknown yet.
        """
        if self._rest or (not step and self._calls >= _TRIALS):  # a step without a guess says what one costs
            return []
        for size in _SIZES:
            place = self._places.get(tuple(self._ids[-size:]))
            if place is not None:
                return self._copied(place, min(self.most, most))
        return []

    def _copied(self, place: int, count: int) -> list[int]:
        """What stands from a place on; behind the end of the text it goes on as it did there, for texts that circle."""
        copied = self._ids[place : place + count]
        period = len(self._ids) - place
        for number in range(len(copied), count):
            copied.append(copied[number - period])
        return copied

    def was_verified(self, tokens: int, seconds: float, step: float) -> None:
        """A call gave so many tokens, in so many seconds; a step takes `step` for one."""
        self._calls += 1
        saved = tokens * step - seconds if step else 0.0
        self._saved = saved if self._calls == 1 else _NEWEST * saved + (1 - _NEWEST) * self._saved
        if step and self._calls >= _TRIALS and self._saved < 0:
            self.stop()

    def stop(self) -> None:
        """No guesses for some tokens; then they are tried again."""
        self._calls, self._saved = 0, 0.0
        self._rest, self._next_rest = self._next_rest, 2 * self._next_rest

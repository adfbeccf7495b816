"""What lm-evaluation-harness asks for, as rows of ids. Imports no framework and no harness.

As in lm_eval 0.4.13, blanks at the end of a context belong to what follows it, a text is encoded whole and cut where
the context's ids end, and a text that is longer than the model loses its beginning, here all but the model's own
tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from glm.encoding.batches import common_prefix
from glm.errors import UsageError
from glm.evaluation.likelihood.tokens import RowEncoder, TokenRow

LEAST_SHARED = 32  # tokens that are worth a pass of their own


@dataclass(frozen=True)
class Asked:
    """One row, and which requests its targets answer."""

    row: TokenRow
    places: tuple[int, ...]


class RequestEncoder:
    """Encodes requests of one model.

    Args:
        encode: of the model's rows.
        max_length: most tokens that are read at once; the model's positions if not given.

    Attributes:
        room: most tokens of a context, the model's own included.
    """

    def __init__(self, encode: RowEncoder, max_length: int | None = None):
        self.encode, self.positions = encode, encode.positions
        self._frame = encode.text_ids("")
        # Where a text stands among the model's own tokens.
        self._place = common_prefix(self._frame, encode.text_ids("a"))
        longest = encode.max_position + 1
        self.room = min(max_length or longest, longest)
        if self.room <= len(self._frame):
            raise UsageError(f"max_length is {max_length}, and the model's own tokens alone are {len(self._frame)}")

    def framed(self, ids: Sequence[int]) -> list[int]:
        """A text's ids with the model's own around them."""
        return [*self._frame[: self._place], *ids, *self._frame[self._place :]]

    def context_ids(self, text: str, room: int | None = None) -> list[int]:
        """Ids of a context, of which the beginning is left out where it is longer than `room`."""
        return self._cut(self.encode.text_ids(text), self.room if room is None else room)

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and of what follows it; of the latter none where there is no text."""
        stripped = context.rstrip()
        continuation, context = context[len(stripped) :] + continuation, stripped
        ids = self.encode.text_ids(context)
        if self.positions.prompt_prefix(ids):
            target = self.encode.target_ids(continuation)
            most = min(len(target), self.encode.max_position)  # the positions of a blank count anew
            return self._cut(ids, self.room), target[:most]
        whole = self.encode.text_ids(context + continuation)
        # Where a token has the end of the context and the beginning of the rest, it is part of what is scored.
        end = common_prefix(ids, whole)
        target = whole[end:]
        return self._cut(whole[:end], self.room - len(target) + 1), target

    def rows(self, pairs: Sequence[tuple[str, str]]) -> list[Asked]:
        """Rows of requests, those of one context together, ordered so that contexts with one beginning are beside each
        other; requests without a target are left out.
        """
        targets: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for place, pair in enumerate(pairs):
            context, target = self.pair(*pair)
            if target:
                targets.setdefault(tuple(context), {})[place] = target
        return [
            Asked(self._row([*context], [*found.values()]), tuple(found))
            for context, found in sorted(targets.items(), key=lambda item: item[0])
        ]

    def windows(self, text: str) -> list[TokenRow]:
        """Rows that score every token of a text once, each as long as the model allows: one token of context at least,
        and the last one as much as fits before it.
        """
        ids = self.encode.text_ids(text)[self._place :]
        ids = ids[: len(ids) - (len(self._frame) - self._place)]
        room = self.room - len(self._frame)
        rows, start = [], 0
        while start < len(ids):
            stop = min(len(ids), start + room + (start == 0))  # the first has no token before it
            before = ids[max(0, stop - room - 1) : start]
            rows.append(self._row(self.framed(before), [ids[start:stop]]))
            start = stop
        return rows

    def _row(self, context: list[int], targets: list[list[int]]) -> TokenRow:
        return TokenRow(context, tuple(targets), self.positions.prompt_prefix(context))

    def _cut(self, ids: list[int], room: int) -> list[int]:
        """At most `room` ids, the frame whole."""
        end = len(ids) - (len(self._frame) - self._place)
        inner, most = ids[self._place : end], room - len(self._frame)
        if most < 0:
            raise UsageError(f"what follows a text needs more than the {self.room} tokens that the model reads")
        return self.framed(inner[len(inner) - most :] if len(inner) > most else inner)


def sharing(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Groups of ordered rows whose contexts begin alike, which say how much they share.

    A group ends where two neighbours share much less than one of them shares with its other neighbour: where the shots
    of one task end and those of the next begin.
    """
    contexts = [each.row.context for each in asked]
    common = [common_prefix(one, other[:-1]) for one, other in pairwise(contexts)]
    group: list[Asked] = []
    for place, each in enumerate(asked):
        group.append(each)
        beside = max(common[max(place - 1, 0) : place + 2], default=0)
        if place == len(asked) - 1 or (common[place] < beside / 2 and beside - common[place] >= LEAST_SHARED):
            inside = common[place - len(group) + 1 : place]
            yield _shared(group, min(inside, default=0))
            group = []


def _shared(group: list[Asked], count: int) -> list[Asked]:
    count = min(count, *(len(each.row.context) - 1 for each in group))
    if count < LEAST_SHARED or any(each.row.prefix_length for each in group):
        return group
    return [replace(each, row=replace(each.row, shared=count)) for each in group]

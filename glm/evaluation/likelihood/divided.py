"""Rows divided among copies of a model, one for each process of a launch."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby

from glm.distributed.processes import gather
from glm.evaluation.likelihood.rows import Likelihood, Row, Scorer
from glm.evaluation.likelihood.tokens import TokenRow
from glm.evaluation.replica import Replica


def divided(scorer: Scorer, replica: Replica) -> Scorer:
    """A scorer that all processes call with the same rows, each of which scores its part: all of them get the whole.

    Args:
        scorer: over this process's whole model.
        replica: which of the processes this is.
    """
    return scorer if replica.count == 1 else DividedScorer(scorer, replica)


class DividedScorer:
    """See `divided`; `tokens_read` counts those of all processes."""

    def __init__(self, scorer: Scorer, replica: Replica):
        self.scorer, self.replica = scorer, replica
        self.window, self.encode = scorer.window * replica.count, scorer.encode
        self.tokens_read = 0

    def check(self, row: Row) -> None:
        """Raises as `Scorer.check`."""
        self.scorer.check(row)

    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Likelihood, ...]]:
        for _, beside in groupby(rows, key=lambda row: row.shared):
            group = list(beside)
            for start in range(0, len(group), self.window):
                yield from self.score([self.encode(row) for row in group[start : start + self.window]])

    def score(self, rows: Sequence[TokenRow]) -> list[tuple[Likelihood, ...]]:
        """Raises as `Scorer.score`."""
        before, (rank, count) = self.scorer.tokens_read, (self.replica.rank, self.replica.count)
        own = self.scorer.score(rows[rank::count]) if len(rows) > rank else []
        numbers = [[(each.log_likelihood, each.tokens, each.greedy) for each in row] for row in own]
        found: list[tuple[Likelihood, ...]] = [()] * len(rows)
        parts = [json.loads(text) for text in gather(json.dumps([self.scorer.tokens_read - before, numbers]))]
        for place, (tokens, part) in enumerate(parts):
            self.tokens_read += tokens
            found[place::count] = [tuple(Likelihood(*each) for each in row) for row in part]
        return found

"""Likelihoods with a Paddle model, also one whose tensors are shared among ranks.

A row of a batch is what follows its shared prefix: the rest of the context, and behind it all but the last token of
each target. Targets see the context and themselves (glm/model/visibility.py), and their positions begin where the
context's end, so one forward pass scores all targets of a row, and targets of one token cost nothing.
Shapes: B rows, T new tokens of a row, S tokens of the shared prefix, P position ids per token, M scored columns.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import paddle

from glm.encoding.processor import Processor
from glm.errors import GLMError
from glm.evaluation.likelihood.rows import Likelihood, Row
from glm.evaluation.likelihood.tokens import RowEncoder, TokenRow, by_length
from glm.generation.options import NOT_FINITE
from glm.model.attention import Prefix

BATCHES = 8  # of a window, whose rows are batched with others of their length


def model_scorer(model, processor: Processor, batch_size: int = 8, *, reuse: bool = True) -> "ModelScorer":
    """The scorer of a loaded model.

    Args:
        model: a `GLMForCausalLM`; every rank of tensor parallelism must score the same rows.
        processor: of the model.
        batch_size: rows that are read together.
        reuse: False reads every context whole, also what rows share.
    """
    model.eval()
    return ModelScorer(model, processor, batch_size, reuse)


class ModelScorer:
    """See `glm.evaluation.likelihood.rows.Scorer`; arguments as in `model_scorer`."""

    def __init__(self, model, processor: Processor, batch_size: int, reuse: bool):
        self.model, self.batch_size, self.reuse = model, batch_size, reuse
        self.encode = RowEncoder(processor, model.config.max_position)
        self.window, self.tokens_read = BATCHES * batch_size, 0
        self._pad, self._kept = processor.tokenizer.pad_token_id, _NOTHING

    def check(self, row: Row) -> None:
        """Raises as `Scorer.check`."""
        self.encode(row)

    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Likelihood, ...]]:
        for _, beside in groupby(rows, key=lambda row: row.shared):
            group = list(beside)
            for start in range(0, len(group), self.window):
                yield from self.score([self.encode(row) for row in group[start : start + self.window]])

    @paddle.no_grad()
    def score(self, rows: Sequence[TokenRow]) -> list[tuple[Likelihood, ...]]:
        """A likelihood for each target of each row; the rows share what all of them say that they share.

        Raises:
            GLMError: the model's numbers are not finite.
        """
        length = min(row.shared for row in rows) if self.reuse else 0
        prefix = self._prefix(rows[0].context[:length]) if length else None
        found: list[tuple[Likelihood, ...]] = [()] * len(rows)
        for places in by_length(rows, self.batch_size, lambda row: row.length):
            batch = [_Packed(rows[place], self.encode.positions, length) for place in places]
            for place, likelihoods in zip(places, self._batch(batch, prefix), strict=True):
                found[place] = likelihoods
        return found

    def _prefix(self, ids: list[int]) -> Prefix:
        """Keys and values of ids that rows share, those of the last time if they are the same.

        A part of a longer prefix would be the same but for its last bits, and a run that goes on would differ in them.
        """
        if self._kept[0] != ids:
            self._kept = _NOTHING  # before the next one's memory
            self.tokens_read += len(ids)
            mask, positions = np.ones([1, len(ids)], "int64"), self.encode.positions.of(ids, 0)[None]
            arrays = (np.array([ids]), mask, positions, np.zeros([1], "int64"))
            self._kept = ids, self.model.prefill(*map(paddle.to_tensor, arrays))
        return self._kept[1]

    def _batch(self, rows: Sequence["_Packed"], prefix: Prefix | None) -> Iterator[tuple[Likelihood, ...]]:
        width = max(row.tokens for row in rows)
        arrays = [np.stack(side) for side in zip(*(row.arrays(width, self._pad) for row in rows), strict=True)]
        self.tokens_read += sum(row.tokens for row in rows)
        hidden_MH = self.model.read(*map(paddle.to_tensor, arrays), prefix).flatten(0, 1)
        columns = np.concatenate([place * width + np.array(row.columns) for place, row in enumerate(rows)])
        wanted = [ids for row in rows for ids in row.wanted]
        ids_MX = np.zeros([len(wanted), max(map(len, wanted))], dtype="int64")
        for line, ids in zip(ids_MX, wanted, strict=True):
            line[: len(ids)] = ids
        hidden_MH = paddle.index_select(hidden_MH, paddle.to_tensor(columns))
        found_MX, best_M = (x.numpy() for x in self.model.log_probs(hidden_MH, paddle.to_tensor(ids_MX)))
        if not np.isfinite(found_MX).all():
            raise GLMError(NOT_FINITE)
        start = 0
        for row in rows:
            part = slice(start, start := start + len(row.columns))
            yield row.likelihoods(found_MX[part], best_M[part])


_NOTHING: tuple[list[int], Prefix | None] = ([], None)


class _Packed:
    """A row of a batch: what follows the first `length` ids of the context.

    Attributes:
        columns: those that are scored, each once.
        wanted: for each of them, the ids whose log-probabilities are asked for.
    """

    def __init__(self, row: TokenRow, positions, length: int):
        context, self.targets, self.prefix_length = row.context, row.targets, row.prefix_length
        self.ids = list(context[length:])
        self.rest = len(self.ids)
        self.positions = [positions.of(context, row.prefix_length)[:, length:]]
        self.columns, self.wanted = [self.rest - 1], [[target[0] for target in row.targets]]
        self.spans: list[range] = []
        for target in row.targets:
            start, read = len(self.ids), target[:-1]
            self.spans.append(range(start, start + len(read)))
            self.ids += read
            self.positions.append(positions.of([*context, *read], row.prefix_length)[:, len(context) :])
            self.columns += self.spans[-1]
            self.wanted += [[token] for token in target[1:]]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def arrays(self, width: int, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids [T], position ids [P, T] and visible rows [2, T], padded on the right."""
        missing = width - self.tokens
        ids = np.array([*self.ids, *[pad] * missing], dtype="int64")
        positions = np.pad(np.concatenate(self.positions, axis=1), [(0, 0), (0, missing)])
        first = np.arange(width, dtype="int32")
        first[: self.prefix_length] = 0
        end = np.full_like(first, width)
        for span in self.spans:
            end[span.start : span.stop] = span.stop
        first[self.tokens :] = end[self.tokens :] = 0
        return ids, positions, np.stack([first, end])

    def likelihoods(self, found_MX: np.ndarray, best_M: np.ndarray) -> tuple[Likelihood, ...]:
        """Of each target, by what was found in `columns`."""
        results, start = [], 1
        for place, target in enumerate(self.targets):
            stop = start + len(target) - 1
            total = float(found_MX[0, place]) + float(found_MX[start:stop, 0].sum(dtype="float64"))
            greedy = [int(best_M[0]), *best_M[start:stop].tolist()] == list(target)
            results.append(Likelihood(total, len(target), greedy))
            start = stop
        return tuple(results)

"""What a model makes of pairs: log-probabilities of their answers, and the figures of an evaluation.

Shapes: N pairs of a split, B of a batch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from glm.distributed.processes import gather
from glm.evaluation.perplexity import in_batches
from glm.evaluation.replica import Replica
from glm.training.preference_loss import Answers, PreferenceLoss, summed_answers
from glm.training.preference_rows import PairProcessor, PreferencePairs


def answers_of(model, inputs: Mapping[str, Tensor]) -> Answers:
    """The answers of a batch of pairs.

    Args:
        model: a `GLMForCausalLM`, or what wraps one.
        inputs: of `PairProcessor.training_batch`, without the reference.
    """
    rest = {name: value for name, value in inputs.items() if name != "answer_of"}
    losses_M = model(**rest, reduction="none")
    return summed_answers(losses_M, inputs["answer_of"], len(inputs["input_ids"]))


@dataclass
class PreferenceEvaluation:
    """How pairs are evaluated.

    Attributes:
        processor: makes batches of pairs.
        loss: of the run.
        batch_size: pairs that are evaluated together.
        show_progress: whether this process draws bars.
    """

    processor: PairProcessor
    loss: PreferenceLoss
    batch_size: int = 8
    show_progress: bool = True

    @paddle.no_grad()
    def run(self, model, pairs: PreferencePairs, replica: Replica) -> dict[str, float]:
        """The mean over the pairs of `loss` and of each figure of the loss; each replica evaluates its part."""
        names = ("loss", *self.loss.figures)
        totals = np.zeros(len(names))
        for inputs in self._batches(pairs, replica, "pairs"):
            reference = inputs.pop("reference", None)
            found = self.loss(answers_of(model, inputs), reference)
            totals += [float(found[name].sum()) for name in names]
        means = sum(_of_replicas(replica, totals.tolist()).values()) / len(pairs)
        return dict(zip(names, means.tolist(), strict=True))

    @paddle.no_grad()
    def sums(self, model, pairs: PreferencePairs, replica: Replica, what: str) -> np.ndarray:
        """[N, 2] float32, log-probabilities of the answers; each replica computes its part, all get the whole.

        Args:
            what: they are computed for, on the bar.
        """
        own = []
        for inputs in self._batches(pairs, replica, what):
            inputs.pop("reference", None)
            own += answers_of(model, inputs).sums.tolist()
        sums = np.zeros((len(pairs), 2), "float32")
        for rank, part in _of_replicas(replica, own).items():
            sums[_by_length(pairs)[rank :: replica.count]] = part
        return sums

    def _batches(self, pairs: PreferencePairs, replica: Replica, what: str) -> Iterator[dict[str, Tensor]]:
        """Inputs of the replica's part of the pairs, by their length."""
        own = _by_length(pairs)[replica.rank :: replica.count]
        for some in in_batches(own, self.batch_size, what, self.show_progress):
            batch = self.processor.training_batch([pairs.pair(int(number)) for number in some])
            yield {name: paddle.to_tensor(array) for name, array in batch.items()}


def _by_length(pairs: PreferencePairs) -> np.ndarray:
    """Numbers of the pairs, the longest first: those of a batch are of nearly equal length.

    All passes take this order, so that the same model gives the same numbers to the last digit.
    """
    return np.argsort(-pairs.encoded.rows.columns, kind="stable")


def _of_replicas(replica: Replica, found: list) -> dict[int, np.ndarray]:
    """What each replica has found, by its rank; the ranks that share a model have found the same."""
    texts = gather(json.dumps([replica.rank, found]))
    return {rank: np.array(part) for rank, part in map(json.loads, texts)}

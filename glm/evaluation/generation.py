"""Evaluation of a model on held-out rows: the loss, and generated texts beside their references."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paddle

from glm.distributed.processes import gather
from glm.encoding.dataset import EncodedDataset
from glm.encoding.examples import Example, TrainingExample
from glm.encoding.processor import Processor
from glm.evaluation.metrics import METRICS, Score
from glm.evaluation.perplexity import Item, in_batches, summed_loss
from glm.evaluation.replica import Replica
from glm.files.atomic import atomic_write
from glm.generation.options import GenerationConfig
from glm.generation.search import Prompt, StopTokens


@dataclass
class GenerationEvaluation:
    """How evaluation generates.

    Attributes:
        processor: of the examples.
        config: decoding options.
        batch_size: rows that are evaluated together.
        show_progress: whether this process draws bars.
        score: (predictions, references) → metrics (glm/evaluation/metrics.py).
        loss_only: generate nothing.
    """

    processor: Processor
    config: GenerationConfig
    batch_size: int = 8
    show_progress: bool = True
    score: Score = METRICS["characters"]
    loss_only: bool = False

    @paddle.no_grad()
    def run(self, model, dataset: EncodedDataset, replica: Replica) -> tuple[float, list[tuple[str, str]]]:
        """Mean loss per target token, without label smoothing, and (prediction, reference) of every row, [] of loss
        only.

        Each replica evaluates its part of the rows; all processes get the whole.
        """
        total, tokens = self._summed_loss(model, dataset.rows[replica.rank :: replica.count])
        texts = [] if self.loss_only else self._generate(model, dataset.prompts[replica.rank :: replica.count])
        found = gather(json.dumps([replica.rank, total, tokens, texts]))
        by_replica = {rank: rest for rank, *rest in map(json.loads, found)}
        totals, counts, _ = zip(*by_replica.values(), strict=True)
        loss = sum(totals) / sum(counts)
        if self.loss_only:
            return loss, []
        predictions = [""] * len(dataset.examples)
        for rank, (_, _, texts) in by_replica.items():
            predictions[rank :: replica.count] = texts
        references = map(self.processor.reference, dataset.examples)
        return loss, list(zip(predictions, references, strict=True))

    def _summed_loss(self, model, rows: Sequence[TrainingExample]) -> tuple[float, int]:
        """Sum over the trained tokens, and how many they are."""
        return summed_loss(model, map(self.processor.training_batch, self._batches(rows, "loss")))

    def _generate(self, model, prompts: Sequence[list[int]]) -> list[str]:
        texts, stop = [], StopTokens.of(self.processor)
        for some in self._batches(prompts, "generate"):
            prompt = Prompt.of(self.processor.prompt_batch(some))
            tokens, _ = model.generate_batch(prompt, self.config, stop)
            texts += map(self.processor.decode, tokens.tolist())
        return texts

    def _batches(self, items: Sequence[Item], what: str) -> Iterator[Sequence[Item]]:
        return in_batches(items, self.batch_size, what, self.show_progress)


def write_predictions(path: Path, examples: Sequence[Example], predictions: Sequence[tuple[str, str]]) -> None:
    """Source, prediction and reference of each example, a line of JSON each; whole or not at all."""
    rows = (
        {"source": example.source, "prediction": prediction, "reference": reference}
        for example, (prediction, reference) in zip(examples, predictions, strict=True)
    )
    with atomic_write(path, "w", "utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

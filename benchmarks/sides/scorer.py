"""This project: the scorer of a test's questions over the dynamic model."""

import time
from types import SimpleNamespace

from benchmarks.prepare import MODEL
from benchmarks.settings import Task
from benchmarks.side import Place, Scores
from benchmarks.sides.positions import positions_of
from benchmarks.sides.prompts import end_token, questions_of
from benchmarks.sides.training import paddle_operators
from glm.api.causal_lm import GLMForCausalLM
from glm.evaluation.likelihood import Scorer, TokenRow
from glm.evaluation.likelihood.model import model_scorer


class Side:
    """See `benchmarks.side`."""

    def __init__(self, place: Place):
        self.directory, self.reuse = place.directory, place.side.reuse
        self.processor = processor_of(place)
        self.open(place)

    def open(self, place: Place) -> None:
        self.model = GLMForCausalLM.from_pretrained(place.directory / MODEL)

    def scorer(self, task: Task) -> Scorer:
        """A new one, which has read nothing."""
        return model_scorer(self.model, self.processor, task.batch, reuse=self.reuse)

    def score(self, task: Task) -> Scores:
        shots, questions, letters = questions_of(self.directory)
        targets = tuple([letter] for letter in letters)
        rows = [TokenRow([*shots, *question], targets, shared=len(shots)) for question in questions]
        scorer, found = self.scorer(task), []
        start = time.perf_counter()
        for first in range(0, len(rows), scorer.window):
            found += scorer.score(rows[first : first + scorer.window])
        seconds = time.perf_counter() - start
        return Scores([[each.log_likelihood for each in row] for row in found], seconds)

    def profile(self, task: Task) -> list[dict]:
        return paddle_operators(lambda: self.score(task))


def processor_of(place: Place) -> SimpleNamespace:
    """What a scorer asks of a processor: rows are ids already."""
    tokenizer = SimpleNamespace(pad_token_id=end_token(place.directory))
    last = place.shape.shots + place.shape.question
    return SimpleNamespace(tokenizer=tokenizer, positions=positions_of(place.directory), max_position=last)

"""A tiny model of every family, rows of questions, and their likelihoods as the training loss has them, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from tiny_chat import KINDS, chat_model, processor_of_tiny
from tiny_glm import tensors, tiny_model

from glm import GLMForCausalLM
from glm.encoding.examples import TrainingExample
from glm.encoding.processor import GLMProcessor, Processor
from glm.evaluation.likelihood import Likelihood, Row

NAMES = ("glm", *KINDS)
CAUSAL = ("chatglm2", "chatglm3", "glm4", "glm4-0414")
SHOTS = "Questions about towers.\n\n" + "".join(f"{n} + {n}?\nA. {n}\nB. {2 * n}\nAnswer: B\n\n" for n in (3, 4))
LETTERS = (" A", " B", " C", " D")
# Letters, words of several tokens, one target alone, and the beginning of a text.
ROWS = (
    *(Row(f"{SHOTS}{n} + 1?\nA. 9\nB. {n}{n}\nAnswer:", LETTERS, SHOTS) for n in (5, 12345, 77)),
    Row(f"{SHOTS}祥信塔?\nAnswer:", (" 高72米。", " A", " 云溪桥建于1920年"), SHOTS),
    Row(f"{SHOTS}a b c?\nAnswer:", (" d e f",), SHOTS),
    Row("云溪桥建于", ("1920年", "1691年。", "桥")),
    Row("", ("Question", "桥")),
)


@dataclass
class Case:
    """A model with its processor."""

    model: GLMForCausalLM
    processor: Processor

    def __post_init__(self):
        self.processor.check_fits(self.model.config.vocab_size, self.model.config.max_position)

    def ids(self, row: Row, target: str) -> tuple[list[int], list[int], int]:
        """Context and target as the model reads them, and how much of the context is read in both directions."""
        tokenizer = self.processor.tokenizer
        if tokenizer.kind == "glm-chinese":
            context = [tokenizer.cls_token_id, *tokenizer.text_ids(row.context), tokenizer.gmask_token_id]
            context += [tokenizer.eos_token_id, tokenizer.sop_token_id]
            return context, tokenizer.text_ids(target.strip()), len(context) - 1
        if tokenizer.kind == "chatglm":
            context = [*tokenizer.text_ids(row.context), tokenizer.gmask_token_id, tokenizer.sop_token_id]
            return context, tokenizer.text_ids(target.strip()), len(context) - 1
        prefix = [tokenizer.gmask_token_id, tokenizer.sop_token_id]
        context, whole = ([*prefix, *tokenizer.text_ids(text)] for text in (row.context, row.context + target))
        assert whole[: len(context)] == context
        return context, whole[len(context) :], 0

    def losses(self, row: Row, target: str) -> np.ndarray:
        """Of each token of the target, by the loss that training has."""
        context, answer, prefix = self.ids(row, target)
        example = TrainingExample([*context, *answer], [False] * len(context) + [True] * len(answer), prefix)
        with paddle.no_grad():
            return self.model(**tensors(self.processor.training_batch([example])), reduction="none").numpy()

    def wanted(self, row: Row) -> list[Likelihood]:
        """Of each target; greedy where every token has the largest logit."""
        return [self._wanted(row, target) for target in row.targets]

    def _wanted(self, row: Row, target: str) -> Likelihood:
        context, answer, prefix = self.ids(row, target)
        ids = [*context, *answer]
        arrays = ([ids], [[1] * len(ids)], self.processor.positions.of(ids, prefix)[None], [prefix])
        with paddle.no_grad():
            logits = self.model(*(paddle.to_tensor(np.array(each, "int64")) for each in arrays)).numpy()[0]
        best = logits[len(context) - 1 : -1].argmax(axis=1).tolist()
        return Likelihood(-float(self.losses(row, target).sum(dtype="float64")), len(answer), best == answer)


def case_of(name: str, tokenizer) -> Case:
    if name == "glm":
        return Case(tiny_model(seed=5, max_position_embeddings=256), GLMProcessor(tokenizer, 24, 12))
    return Case(chat_model(name), processor_of_tiny(name))


def assert_same(found: Sequence[Likelihood], wanted: Sequence[Likelihood], tolerance: float = 2e-4) -> None:
    assert [(each.tokens, each.greedy) for each in found] == [(each.tokens, each.greedy) for each in wanted]
    values = [[each.log_likelihood for each in side] for side in (found, wanted)]
    assert np.allclose(*values, rtol=1e-5, atol=tolerance), values

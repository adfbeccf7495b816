"""PreferenceTrainer: the trainer on pairs of answers; what a run writes and how it resumes is `GLMTrainer`'s.

Shapes: B pairs of a batch.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import paddle
from paddle import Tensor

from glm.model.lora import GLMLoRAModel
from glm.training.preference_evaluation import PreferenceEvaluation, answers_of
from glm.training.preference_rows import PreferencePairs
from glm.training.trainer import GLMTrainer


class PreferenceTrainer(GLMTrainer):
    """Trains a `GLMForCausalLM` or its LoRA model on `PreferencePairs`. Every pair of a step weighs the same.

    Pairs that come without the reference's log-probabilities get those of the model without its adapter.

    Args:
        evaluation: a `PreferenceEvaluation`; its loss is what is trained.
        args, kwargs: of `GLMTrainer`.
    """

    panels: ClassVar = {
        "rewards": ("rewards/chosen", "rewards/rejected", "rewards/margins"),
        "chosen above rejected, as a share of the pairs": ("rewards/accuracies", "logps/accuracies"),
    }

    def __init__(self, *args, evaluation: PreferenceEvaluation, **kwargs):
        super().__init__(*args, evaluation=evaluation, **kwargs)
        self.loss = evaluation.loss
        self._figures: dict[str, Tensor] = {}  # of the last micro-batch, shares of its step's

    def compute_loss(self, model, inputs, return_outputs=False):
        weight = inputs.pop("token_weight")  # of a pair
        reference = self._reference(inputs)
        found = self.loss(answers_of(model, inputs), reference)
        self._figures = {name: found[name].sum() * weight for name in self.loss.figures}
        return found["loss"].sum() * weight

    def _reference(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """[B, 2]; takes it out of the inputs where they have it."""
        if "reference" in inputs or not self.loss.has_reference:
            return inputs.pop("reference", None)
        self.model.eval()
        with paddle.no_grad(), self.model.without_adapter():
            sums_B2 = answers_of(self.model, inputs).sums
        self.model.train()
        return sums_B2

    def _remember(self, part: Tensor) -> None:
        count = self.args.gradient_accumulation_steps
        values = [part, *(value / count for value in self._figures.values())]
        loss, *figures = self._mean_over_replicas(paddle.stack(values)).unbind()
        named = dict(zip(self._figures, figures, strict=True))
        self.history.add(self.state.global_step + 1, loss, self._get_learning_rate(), **named)

    def log(self, logs, **kwargs):
        """`GLMTrainer`'s, with the means of the figures since the line before."""
        if "loss" in logs:
            logs |= {name: round(self.history.mean(name, self._logged_step), 6) for name in self.loss.figures}
        super().log(logs, **kwargs)

    def train(self, resume_from_checkpoint=None, **kwargs):
        """`GLMTrainer`'s; the evaluation rows are evaluated before the first step as well."""
        if self.eval_dataset is not None and not resume_from_checkpoint:
            self.history.add_evaluation(0, self.evaluate())
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _measured(self, dataset: PreferencePairs, prefix: str) -> dict[str, float]:
        with self.autocast_smart_context_manager():
            figures = self.evaluation.run(self.model, dataset, self._replica)
        return {"loss": figures["loss"]} if self.args.prediction_loss_only else figures

    def reference_of(self, dataset: PreferencePairs, name: str) -> np.ndarray:
        """[N, 2] float32: log-probabilities of a split's answers now, in the arithmetic of training."""
        self.model.eval()
        with self.autocast_smart_context_manager():
            return self.evaluation.sums(self.model, dataset, self._replica, f"reference of {name}")

    @property
    def evaluated_before(self) -> Mapping[str, float]:
        """The evaluation before the first step, {} where there was none."""
        return next((row for row in self.history.evaluations if row["step"] == 0), {})


def has_new_adapter(model, lora_path) -> bool:
    """Whether a model without its adapter is what training started from."""
    return isinstance(model, GLMLoRAModel) and not lora_path

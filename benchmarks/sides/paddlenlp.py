"""PaddleNLP's side: its GLMForConditionalGeneration, its generate, its LoRAModel. Imports nothing of glm."""

import time
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn
from paddlenlp.generation.stopping_criteria import StoppingCriteriaList
from paddlenlp.peft import LoRAConfig, LoRAModel
from paddlenlp.transformers import GLMForConditionalGeneration
from paddlenlp.transformers.model_utils import no_init_weights

from benchmarks.settings import LABEL_SMOOTHING, Task
from benchmarks.side import Generation, Mark, Place, projected_seconds
from benchmarks.sides.training import TrainedSide

LEAST_STEPS = 3  # the first reads the prompt; the others give the pace


class Side(TrainedSide):
    """See `benchmarks.side`.

    PaddleNLP's own label smoothing raises for more than one row (it adds [B·T] to [B, T]), and its F.log_softmax takes
    minutes for this vocabulary. So its model computes the cross entropy, and the uniform part is added here in the
    fastest way known: on the trained tokens only, through logsumexp.
    """

    def __init__(self, place: Place):
        self.shape = place.shape
        self.model = _load(place.directory / "model")
        self.model.eval()
        arrays = np.load(place.directory / "paddlenlp.npz")
        self.source = int(arrays["source_columns"])
        self.stop = {
            "bos_token_id": int(arrays["sop_token_id"]),
            "eos_token_id": int(arrays["eop_token_id"]),
            "pad_token_id": int(arrays["pad_token_id"]),
        }
        names = ("input_ids", "position_ids", "attention_mask", "labels", "loss_mask")
        self.batch = {name: paddle.to_tensor(arrays[name]) for name in names}
        self.trained_M = paddle.nonzero(self.batch["loss_mask"].flatten() > 0).flatten()

    def add_lora(self, rank: int) -> None:
        config = LoRAConfig(r=rank, lora_alpha=2 * rank, target_modules=[".*query_key_value"], dtype="float32")
        self.model = LoRAModel(self.model, config)
        self.model.mark_only_lora_as_trainable()

    def generate(self, task: Task, patience: float) -> Generation:
        prompt, new_tokens = self.source + 1, task.new_tokens(self.shape)
        search = {"decode_strategy": "greedy_search"}
        if task.beams > 1:
            search = {"decode_strategy": "beam_search", "num_beams": task.beams, "no_repeat_ngram_size": task.no_repeat}
        marks: list[Mark] = []
        start = time.perf_counter()

        def watch(input_ids: Tensor, scores: Tensor) -> bool:
            marks.append((len(marks) + 1, time.perf_counter() - start))
            if len(marks) < LEAST_STEPS or marks[-1][1] <= patience:
                return False
            return projected_seconds(marks, new_tokens) > 2 * patience

        tokens, _ = self.model.generate(
            self.batch["input_ids"][:, :prompt],
            # All positions: what is missing PaddleNLP continues in both rows, which is not GLM's scheme.
            position_ids=self.batch["position_ids"],
            attention_mask=self.batch["attention_mask"][:, :, :prompt, :prompt],
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            stopping_criteria=StoppingCriteriaList([watch]),
            **self.stop,
            **search,
        )
        return Generation([row[: len(marks)] for row in tokens.tolist()], marks)

    def _loss(self) -> Tensor:
        entropy, logits_BTV = self.model(**self.batch)[:2]
        logits_MV = paddle.index_select(logits_BTV.flatten(0, 1), self.trained_M)
        uniform = (paddle.logsumexp(logits_MV, axis=1) - logits_MV.mean(axis=1)).mean()
        return (1.0 - LABEL_SMOOTHING) * entropy + LABEL_SMOOTHING * uniform


def _load(directory: Path) -> GLMForConditionalGeneration:
    """Loads without drawing random weights first, which would take longer than the loading."""
    zeros = nn.initializer.Constant(0.0)
    nn.initializer.set_global_initializer(zeros, zeros)
    try:
        with no_init_weights(_enable=True):
            return GLMForConditionalGeneration.from_pretrained(str(directory))
    finally:
        nn.initializer.set_global_initializer(None)

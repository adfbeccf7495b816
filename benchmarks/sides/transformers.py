"""transformers and PEFT on torch, in the peers' environment. Imports nothing of glm."""

import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM, StoppingCriteriaList

from benchmarks.settings import LEARNING_RATE, LORA_RANK, Task
from benchmarks.side import Generation, Place
from benchmarks.sides.prompts import end_token, prompts_of

ATTENTION = ["q_proj", "k_proj", "v_proj"]


class Side:
    """See `benchmarks.side`."""

    def __init__(self, place: Place):
        self.directory, self.shape = place.directory, place.shape
        self.end = end_token(place.directory)
        self.model = AutoModelForCausalLM.from_pretrained(place.directory / "hf", dtype=torch.float32).eval()
        arrays = np.load(place.directory / "training.npz")
        self.ids, self.labels = (torch.from_numpy(arrays[name]) for name in ("input_ids", "labels"))

    def generate(self, task: Task, patience: float) -> Generation:
        count, ends = task.new_tokens(self.shape), []
        ids = torch.from_numpy(prompts_of(self.directory, task))
        search = {"num_beams": task.beams}
        if task.no_repeat:
            search["no_repeat_ngram_size"] = task.no_repeat
        start = time.perf_counter()

        def watch(input_ids, scores, **_):
            ends.append(time.perf_counter() - start)
            return torch.zeros(len(input_ids), dtype=torch.bool)

        tokens = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=self.end,
            pad_token_id=self.end,
            stopping_criteria=StoppingCriteriaList([watch]),
            **search,
        )
        return Generation(tokens[:, ids.shape[1] :].tolist(), list(enumerate(ends, 1)))

    def start_training(self, task: Task) -> float:
        if task.lora:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=ATTENTION, task_type="CAUSAL_LM")
            self.model = get_peft_model(self.model, config)
        with torch.no_grad():
            loss = float(self._loss())
        self.model.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=LEARNING_RATE)
        return loss

    def train_step(self) -> None:
        loss = self._loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        float(loss.detach())

    def trained_parameters(self) -> int:
        return sum(p.numel() for p in self.trained)

    def _loss(self) -> torch.Tensor:
        """Labels stand beside the inputs already: transformers' own shift is left out."""
        logits = self.model(input_ids=self.ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), self.labels.flatten(), ignore_index=-100)

"""This project: the dynamic model, trained and generating."""

import time

import numpy as np
import paddle

from benchmarks.prepare import MODEL, TRAINING, stop_tokens
from benchmarks.settings import LABEL_SMOOTHING, Task
from benchmarks.side import Generation, Place
from benchmarks.sides.onnx import options, positions_of
from benchmarks.sides.prompts import prompts_of
from benchmarks.sides.training import TrainedSide, paddle_operators
from glm.api.causal_lm import GLMForCausalLM
from glm.config.glm_config import GLMConfig
from glm.encoding.batches import prompt_batch
from glm.generation.search import Prompt
from glm.kernels.optimizer import AdamW
from glm.model.lora import add_lora


class Side(TrainedSide):
    """`glm.GLMForCausalLM`, trained as `glm.training.trainer` trains it; see `benchmarks.side`."""

    optimizer_class = AdamW

    def __init__(self, place: Place):
        self.directory, self.shape = place.directory, place.shape
        self.config = GLMConfig.from_pretrained(str(place.directory / MODEL))
        self.model = GLMForCausalLM.from_pretrained(place.directory / MODEL)
        self.model.eval()
        arrays = np.load(place.directory / TRAINING)
        self.training = {name: paddle.to_tensor(arrays[name]) for name in arrays.files}
        # GLM (2021) is trained with label smoothing, the chat models without.
        self.smoothing = LABEL_SMOOTHING if self.config.position_type == "learned_2d" else 0.0

    def add_lora(self, rank: int) -> None:
        self.model = add_lora(self.model, rank)

    def generate(self, task: Task, patience: float) -> Generation:
        stop, starts, decode = stop_tokens(self.config), [], type(self.model).decode

        def timed(*args):
            starts.append(time.perf_counter())
            return decode(self.model, *args)

        ids = prompts_of(self.directory, task).tolist()
        self.model.decode = timed
        start = time.perf_counter()
        prompt = Prompt.of(prompt_batch(ids, positions_of(self.directory), stop.pad_token_id))
        tokens, _ = self.model.generate(prompt, options(task, self.shape), stop)
        tokens = tokens.tolist()
        # A step ends where the next one starts to decode; the first one does nothing but read the prompt.
        ends = [*starts, time.perf_counter()]
        return Generation(tokens, [(step, end - start) for step, end in enumerate(ends, 1)])

    def profile(self, task: Task) -> list[dict]:
        if task.kind == "train":
            return paddle_operators(self.train_step)
        return paddle_operators(lambda: self.generate(task, 0.0))

    def _loss(self) -> paddle.Tensor:
        return self.model(**self.training, label_smoothing=self.smoothing)

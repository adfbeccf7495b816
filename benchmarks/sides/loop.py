"""This project: the full-loop graph, in Paddle Inference."""

import os
import time

import numpy as np

from benchmarks.prepare import LOOP
from benchmarks.settings import Task
from benchmarks.side import Generation, Place
from benchmarks.sides.onnx import options, positions_of
from benchmarks.sides.prompts import end_token, prompts_of
from glm.encoding.batches import prompt_batch
from glm.generation.options import GenerationConfig, control_arrays
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_inference import PaddleInferenceRuntime

ATTEMPTS = 3


class Side:
    """See `benchmarks.side`."""

    def __init__(self, place: Place):
        self.directory, self.shape = place.directory, place.shape
        prefix = place.directory / LOOP
        files = (prefix.with_name(f"{prefix.name}{suffix}") for suffix in (".json", ".pdiparams"))
        self.runtime = PaddleInferenceRuntime(RuntimeOptions(*files, cpu_threads=os.cpu_count() or 1))

    def generate(self, task: Task, patience: float) -> Generation:
        """A loop in a graph tells no step times: one run for the first token, one for all."""
        config = options(task, self.shape)
        first = GenerationConfig(**vars(config) | {"max_length": 1, "min_length": 1})
        if config.max_length == 1:
            tokens, reading = self._timed(task, first)
            return Generation(tokens.tolist(), [(1, reading)])
        for _ in range(ATTEMPTS):
            tokens, whole = self._timed(task, config)
            reading = self._timed(task, first)[1]
            if reading < whole:
                return Generation(tokens.tolist(), [(1, reading), (config.max_length, whole)])
        raise RuntimeError("all tokens took less time than the first one alone: the machine is too busy to measure")

    def _timed(self, task: Task, config: GenerationConfig) -> tuple[np.ndarray, float]:
        ids = prompts_of(self.directory, task).tolist()
        start = time.perf_counter()
        batch = prompt_batch(ids, positions_of(self.directory), end_token(self.directory))
        control = control_arrays(config)
        tokens = self.runtime.run(batch | control)[0]
        return tokens, time.perf_counter() - start

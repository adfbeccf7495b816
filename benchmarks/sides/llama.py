"""llama.cpp through the functions of its C library, in the peers' environment. Imports nothing of glm."""

import ctypes
import os
import time

import llama_cpp as llama
import numpy as np

from benchmarks.settings import Task
from benchmarks.side import Generation, Place
from benchmarks.sides.prompts import end_token, prompts_of

BATCH, CHUNK = 2048, 512  # llama.cpp's own defaults: tokens of a call, and of a matmul


@llama.llama_log_callback
def quiet(level, text, data):
    """Its log goes nowhere."""


class Side:
    """Greedy decoding; a context a task, because its size decides what is reserved."""

    def __init__(self, place: Place):
        llama.llama_log_set(quiet, ctypes.c_void_p())
        llama.llama_backend_init()
        self.directory, self.shape = place.directory, place.shape
        self.end, self.float = end_token(place.directory), place.side.weights == "f32"
        file = place.directory / "gguf" / f"{place.side.weights}.gguf"
        self.model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {file}")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.contexts = {}

    def generate(self, task: Task, patience: float) -> Generation:
        prompts_BT, count = prompts_of(self.directory, task), task.new_tokens(self.shape)
        context = self._context(task, *prompts_BT.shape, count)
        llama.llama_memory_clear(llama.llama_get_memory(context), False)
        start = time.perf_counter()
        length = prompts_BT.shape[1]
        newest = self._read(context, prompts_BT)
        steps, marks = [newest], [(1, time.perf_counter() - start)]
        for step in range(1, count):
            newest = self._step(context, newest, length + step - 1)
            steps.append(newest)
            marks.append((step + 1, time.perf_counter() - start))
        return Generation(np.stack(steps, axis=1).tolist(), marks)

    def reserve(self, task: Task) -> None:
        """A context for all tokens of a task, before it is run."""
        self._context(task, *prompts_of(self.directory, task).shape, task.new_tokens(self.shape))

    def _context(self, task: Task, rows: int, length: int, count: int):
        if task not in self.contexts:
            options = llama.llama_context_default_params()
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            # A sequence's part of the context is a multiple of 256.
            options.n_ctx = rows * -(-(length + count) // 256) * 256
            options.n_seq_max, options.n_batch, options.n_ubatch = rows, max(BATCH, length), CHUNK
            options.n_threads = options.n_threads_batch = threads
            if self.float:  # beside this project's fp32 cache; the others keep llama.cpp's default, fp16
                options.type_k = options.type_v = llama.GGML_TYPE_F32
                # Its flash attention rounds to half precision: logits are off by 0.09, and other tokens come.
                options.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            context = llama.llama_init_from_model(self.model, options)
            if not context:
                raise RuntimeError(f"llama.cpp cannot make a context of {options.n_ctx} tokens")
            self.contexts[task] = context, llama.llama_batch_init(options.n_batch, 0, 1)
        return self.contexts[task][0]

    def _read(self, context, prompts_BT: np.ndarray) -> np.ndarray:
        """The first tokens [B]; a call may hold several prompts, and logits are asked for at the last tokens only."""
        first = []
        rows, length = prompts_BT.shape
        together = max(1, BATCH // length)
        for start in range(0, rows, together):
            part = range(start, min(start + together, rows))
            tokens = [
                (int(prompts_BT[row, column]), column, row, column == length - 1)
                for row in part
                for column in range(length)
            ]
            first += self._decode(context, tokens)
        return np.array(first)

    def _step(self, context, newest_B: np.ndarray, position: int) -> np.ndarray:
        return np.array(self._decode(context, [(int(t), position, row, True) for row, t in enumerate(newest_B)]))

    def _decode(self, context, tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        """The best next token where it is wanted; a token has an id, a position, a sequence, and whether."""
        batch = next(batch for found, batch in self.contexts.values() if found == context)
        batch.n_tokens = len(tokens)
        for place, (token, position, row, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
        if code := llama.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gave {code}")
        return [self._best(context, place) for place, token in enumerate(tokens) if token[3]]

    def _best(self, context, place: int) -> int:
        """The most likely token, the end token left out: every side writes as many tokens as it is asked for."""
        logits_V = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), [self.vocab_size])
        logits_V[self.end] = -np.inf
        return int(logits_V.argmax())

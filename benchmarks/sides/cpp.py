"""This project in C++: the ONNX export in libglm, through its C interface. Nothing of Python's engine runs."""

import ctypes
import time
from collections.abc import Callable, Sequence

from benchmarks.cpp import LIBRARY, build_directory, missing
from benchmarks.settings import Task
from benchmarks.side import Generation, Place
from benchmarks.sides.prompts import prompts_of

ATTEMPTS = 3
Ids = ctypes.POINTER(ctypes.c_int32)
OnIds = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, Ids, ctypes.c_size_t)


class Side:
    """A model that is opened once. What it read of the last prompt it keeps, so a run times its decoding alone."""

    def __init__(self, place: Place):
        if reason := missing():
            raise RuntimeError(reason)
        self.directory, self.shape = place.directory, place.shape
        self.library = ctypes.CDLL(str(build_directory() / LIBRARY))
        self.library.glm_tune()  # as glm_infer
        self.library.glm_options_new.restype = ctypes.c_void_p
        self.library.glm_last_error.restype = ctypes.c_char_p
        self.options, self.model = ctypes.c_void_p(self.library.glm_options_new()), ctypes.c_void_p()
        self._set(model_path=place.directory / f"onnx-{place.side.weights}")
        self._call(self.library.glm_open, self.options, ctypes.byref(self.model))

    def generate(self, task: Task, patience: float) -> Generation:
        """A run for the first token, and one for all of them: answers are told when they are finished."""
        prompts, count = prompts_of(self.directory, task).tolist(), task.new_tokens(self.shape)
        self._timed(prompts, 1)  # the prompt is read here
        for _ in range(ATTEMPTS):
            first = self._timed(prompts, 1)[1]
            tokens, whole = self._timed(prompts, count)
            if first < whole:
                return Generation(tokens, [(1, first), (count, whole)])
        raise RuntimeError("all tokens took less time than the first one alone: the machine is too busy to measure")

    def _timed(self, prompts: Sequence[Sequence[int]], count: int) -> tuple[list[list[int]], float]:
        self._set(tgt_length=count, min_tgt_length=count, batch_size=len(prompts))
        arrays = [(ctypes.c_int32 * len(ids))(*ids) for ids in prompts]
        pointers = (Ids * len(arrays))(*(ctypes.cast(array, Ids) for array in arrays))
        sizes = (ctypes.c_size_t * len(arrays))(*map(len, arrays))
        found: list[list[int]] = [[]] * len(prompts)

        def keep(_, index: int, ids: Ids, size: int) -> int:
            found[index] = ids[:size]
            return 0

        start = time.perf_counter()
        call = self.library.glm_generate_ids
        self._call(call, self.model, self.options, pointers, sizes, ctypes.c_size_t(len(arrays)), OnIds(keep), None)
        return found, time.perf_counter() - start

    def _set(self, **options) -> None:
        for name, value in options.items():
            self._call(self.library.glm_options_set, self.options, name.encode(), str(value).encode())

    def _call(self, function: Callable, *arguments) -> None:
        if function(*arguments):
            raise RuntimeError(self.library.glm_last_error().decode())

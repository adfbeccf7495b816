"""Step graphs (glm/export/onnx/contrib.py) in ONNX Runtime on a CPU or CUDA GPU. Imports neither paddle nor paddlenlp.

One array holds the whole cache. A call is bound to it by address, to one slot or to the first B slots, and writes its
new keys and values in place: nothing is copied between steps. Shapes: as in glm/runtime/step.py.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glm.errors import GLMError
from glm.runtime.onnx_columns import OnnxColumnRuntime
from glm.runtime.onnx_session import CPU, Reads, open_session, providers
from glm.runtime.options import RuntimeOptions
from glm.runtime.step import CheckedReads, StepRuntime, check_step

MASKED = np.float32(-30000.0)  # far below any score, as in glm/model/attention.py
# ONNX Runtime's name: with 1 its attention keeps all scores of a call, else they are computed in tiles. All of them are
# faster, and take heads · tokens · capacity: up to so many positions that is 4 MB a head of a part of a prompt.
ALL_SCORES, ALL_SCORES_POSITIONS = "ORT_GQA_DISABLE_FLASH_ATTENTION", 4096


@dataclass
class _Call:
    """A call's inputs and outputs, bound; the arrays are live: what is written there is what the next run reads."""

    binding: object
    arrays: dict[str, np.ndarray]


@dataclass
class ArrayCache:
    """Keys and values of all layers.

    Attributes:
        array: [L, 2, slots, K, C, D] float32, keys then values.
        steps: by B, how a step of the first B slots is bound.
        parts: by slot, a binding of its keys and values, to which every part of a prompt adds its own inputs.
    """

    array: np.ndarray
    steps: dict[int, _Call] = field(default_factory=dict)
    parts: dict[int, object] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return self.array.shape[2]

    @property
    def max_length(self) -> int:
        return self.array.shape[4]


def open_step(options: RuntimeOptions) -> StepRuntime:
    """The step graph that the options name, on its device, with the operators that it has."""
    runtime = OnnxColumnRuntime if options.gives_columns else OnnxStepRuntime
    return runtime(options.model_file, options.capacity, options.cpu_threads, providers(options))


class OnnxStepRuntime(CheckedReads):
    """A step graph that is loaded; see `glm.runtime.step.StepRuntime`.

    Args:
        model_file: `<prefix>.onnx`, with its weights beside it.
        capacity: longest max_length of a cache: the model's positions.
        threads: of the matmuls; 0 = one per core.
        providers: ONNX Runtime's, best first. The cache stays in the computer's memory.
        options: SessionOptions, to be changed.

    Raises:
        GLMError: ONNX Runtime is not installed, or the file is missing, damaged or no step graph.
    """

    def __init__(
        self, model_file: Path, capacity: int, threads: int = 0, providers: Sequence = (CPU,), options: Any = None
    ):
        with _attention_of(capacity):
            self._session = open_session(model_file, threads, providers, options)
        self._reads = Reads()
        self.capacity = capacity
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        self._layers = sum(name.startswith("past_key_") for name in inputs)
        if not self._layers or "seqlens_k" not in inputs or "logits" not in outputs:
            raise GLMError(f"{model_file} is no step graph: export the model with --format onnx")
        _, self._heads, _, self._head_dim = inputs["past_key_0"]
        self.vocab_size, self.bidirectional = outputs["logits"][-1], "bias" in inputs
        self.any_columns = len(inputs["last"]) == 2  # before format version 5 it was [B]
        # A graph without positions takes the position that a token is read into.
        self._inputs, self._position_rows = set(inputs), inputs.get("pos", [0, 1, 0])[1]

    def cache_bytes(self, slots: int, max_length: int) -> int:
        return 4 * int(np.prod(self._shape(slots, max_length), dtype="int64"))

    def new_cache(self, slots: int, max_length: int) -> ArrayCache:
        return ArrayCache(np.zeros(self._shape(slots, max_length), dtype="float32"))

    def _read(self, cache: ArrayCache, slot, ids, positions, start, prefix_length, columns) -> np.ndarray:
        end = start + len(ids)
        arrays = {
            "ids": np.array([ids], dtype="int64"),
            "pos": np.array(positions[None], dtype="int64", order="C"),
            "seqlens_k": np.array([end - 1], dtype="int32"),
            "total": np.array(end, dtype="int32"),
            "last": self._last([columns]),
        }
        if self.bidirectional:
            arrays["bias"] = _prompt_bias(start, end, prefix_length)
        if slot not in cache.parts:
            cache.parts[slot] = self._cache_binding(cache, slot, 1)
        with self._reads.under_way():
            return self._run(self._bind(cache.parts[slot], arrays))

    def interrupt(self) -> None:
        self._reads.interrupt()

    def decode(self, cache: ArrayCache, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        count = len(ids)
        check_step(cache, count, lengths)
        if count not in cache.steps:
            cache.steps[count] = self._bind(self._cache_binding(cache, 0, count), self._step_arrays(cache, count))
        call = cache.steps[count]
        call.arrays["ids"][:, 0], call.arrays["pos"][:, :, 0] = ids, positions
        call.arrays["seqlens_k"][:] = lengths
        return self._run(call)

    def copy(self, to: ArrayCache, slots, of: ArrayCache, sources, positions: tuple[int, int]) -> None:
        part = slice(*positions)
        # All layers in one statement; what is read is a copy, so slots may change places.
        to.array[:, :, list(slots), :, part] = of.array[:, :, list(sources), :, part]

    def _shape(self, slots: int, max_length: int) -> tuple[int, ...]:
        return self._layers, 2, slots, self._heads, max_length, self._head_dim

    def _step_arrays(self, cache: ArrayCache, count: int) -> dict[str, np.ndarray]:
        arrays = {
            "ids": np.zeros([count, 1], dtype="int64"),
            "pos": np.zeros([count, self._position_rows, 1], dtype="int64"),
            "seqlens_k": np.zeros([count], dtype="int32"),
            # The capacity, at every step: each slot sees its own length.
            "total": np.array(cache.max_length, dtype="int32"),
            "last": self._last([[0]] * count),
        }
        return arrays | ({"bias": np.zeros([1, 1, 1, cache.max_length], "float32")} if self.bidirectional else {})

    def _last(self, columns: Sequence[Sequence[int]]) -> np.ndarray:
        """[B, M], or [B] of an older graph."""
        last = np.array(columns, dtype="int64")
        return last if self.any_columns else last[:, 0]

    def _bind(self, binding, arrays: dict[str, np.ndarray]) -> _Call:
        """Binds arrays, in the place of those of an earlier call."""
        arrays["logits"] = np.empty([*arrays["last"].shape, self.vocab_size], dtype="float32")
        for name in (arrays.keys() & self._inputs) | {"logits"}:
            array, bind = arrays[name], binding.bind_output if name == "logits" else binding.bind_input
            bind(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
        return _Call(binding, arrays)

    def _cache_binding(self, cache: ArrayCache, slot: int, count: int):
        """A binding of `count` slots of the cache from `slot` on."""
        binding, shape = self._session.io_binding(), [count, self._heads, cache.max_length, self._head_dim]
        for layer in range(self._layers):
            for part, kind in enumerate(("key", "value")):
                place = cache.array[layer, part, slot:].ctypes.data
                binding.bind_input(f"past_{kind}_{layer}", "cpu", 0, np.float32, shape, place)
                binding.bind_output(f"present_{kind}_{layer}", "cpu", 0, np.float32, shape, place)
        return binding

    def _run(self, call: _Call) -> np.ndarray:
        """Logits [B · M, V]."""
        try:
            self._session.run_with_iobinding(call.binding, self._reads.options)
        except Exception as error:  # ONNX Runtime's errors have no class in common but this one
            raise self._reads.failure(error) from error
        return call.arrays["logits"].reshape([-1, self.vocab_size])


@contextmanager
def _attention_of(capacity: int) -> Iterator[None]:
    """Sessions that are opened in this context attend as is best for a cache of so many positions; who set the variable
    has it as it is set.
    """
    chosen = ALL_SCORES not in os.environ and capacity <= ALL_SCORES_POSITIONS
    if chosen:
        os.environ[ALL_SCORES] = "1"
    try:
        yield
    finally:
        if chosen:
            del os.environ[ALL_SCORES]


def _prompt_bias(start: int, end: int, prefix_length: int) -> np.ndarray:
    """[1, 1, T, end] float32: a token sees the prefix, and what stands before it."""
    place = np.arange(end)
    visible = (place < prefix_length) | (place <= np.arange(start, end)[:, None])
    return np.where(visible, np.float32(0.0), MASKED)[None, None]

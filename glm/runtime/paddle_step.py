"""Step graphs (glm/export/paddle_step.py) in Paddle Inference: CPU, CUDA GPU and NPU. No PaddleNLP.

The cache lies on the device. The graph reads it where it lies and returns the new keys and values, which are then
written into
it: on a CPU by numpy, elsewhere by Paddle, in the same words. Shapes: as in glm/runtime/step.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from glm.errors import GLMError
from glm.files.json_files import read_json
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_inference import open_predictor, run_predictor
from glm.runtime.step import check_chunk, check_step

Store = np.ndarray | Tensor


@dataclass(eq=False)
class PaddleCache:
    """Keys and values of all layers.

    Attributes:
        store: [2L, slots, K, C, D], keys and values by turns.
        views: by address and B, what the graph reads: the first B slots of every part of the store.
    """

    store: Store
    views: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return self.store.shape[1]

    @property
    def max_length(self) -> int:
        return self.store.shape[3]

    def first_rows(self, count: int) -> list[Tensor]:
        # A device that cannot write a part in place gives the store another memory instead.
        address = self.store.ctypes.data if isinstance(self.store, np.ndarray) else self.store.data_ptr()
        if (address, count) not in self.views:
            self.views = {key: views for key, views in self.views.items() if key[0] == address}
            self.views[address, count] = _parts(self.store[:, :count])
        return self.views[address, count]


class PaddleStepRuntime:
    """A step graph that is loaded; see `glm.runtime.step.StepRuntime`.

    Args:
        options: files, device, capacity.

    Raises:
        GLMError: a file is missing, damaged or no step graph, or the device lacks something.
    """

    def __init__(self, options: RuntimeOptions):
        inputs, outputs = graph_shapes(options.model_file)
        past = [name for name in inputs if name.startswith("past_")]
        if not past or len(outputs) != 2:
            raise GLMError(f"{options.model_file} is no step graph: give the file whose name ends in .step.json")
        if not options.params_file.is_file():
            raise GLMError(f"{options.params_file} is missing: export the model again")
        self._predictor = open_predictor(options)
        self._device = "cpu" if options.device == "cpu" else f"{options.device}:{options.device_id}"
        self._inputs = {name: self._predictor.get_input_handle(name) for name in inputs if name not in past}
        self._past = [self._predictor.get_input_handle(name) for name in past]
        (_, self._heads, _, self._head_dim), self._dtype = inputs[past[0]]
        self.capacity, self.vocab_size = options.capacity, outputs[0][-1]

    def cache_bytes(self, slots: int, max_length: int) -> int:
        return int(np.prod(self._shape(slots, max_length), dtype="int64")) * (4 if self._dtype == "float32" else 2)

    def new_cache(self, slots: int, max_length: int) -> PaddleCache:
        shape = self._shape(slots, max_length)
        if self._device == "cpu":
            return PaddleCache(np.zeros(shape, self._dtype))
        return PaddleCache(paddle.zeros(shape, self._dtype, device=self._device))

    def prefill(
        self, cache: PaddleCache, slot: int, ids: Sequence[int], positions: np.ndarray, start: int, prefix_length: int
    ) -> np.ndarray:
        end = start + len(ids)
        check_chunk(cache, slot, start, end)
        if prefix_length and start:
            raise GLMError(f"prefix_length is {prefix_length} at position {start}: such prompts are read whole")
        # Only what was read is worth the scores of a whole chunk; one hidden position stands for none.
        past = _parts(_contiguous(cache.store[:, slot : slot + 1, :, : max(start, 1)]))
        logits, new = self._run(past, np.array([ids]), positions[None], np.array([start]), np.array([prefix_length]))
        self._write(cache, [slot], [start], new)
        return logits[0]

    def decode(self, cache: PaddleCache, ids: np.ndarray, positions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        count = len(ids)
        check_step(cache, count, lengths)
        past = cache.first_rows(count)
        logits, new = self._run(past, ids[:, None], positions[:, :, None], lengths, np.zeros_like(lengths))
        self._write(cache, range(count), lengths.tolist(), new)
        return logits

    def copy(self, to: PaddleCache, slots, of: PaddleCache, sources, positions: tuple[int, int]) -> None:
        part = slice(*positions)
        # Read before anything is written, so slots may change places.
        moved = [_copied(of.store[:, source, :, part]) for source in sources]
        for slot, text in zip(slots, moved, strict=True):
            to.store[:, slot, :, part] = text

    def _shape(self, slots: int, max_length: int) -> list[int]:
        return [len(self._past), slots, self._heads, max_length, self._head_dim]

    def _run(self, past: list[Tensor], ids_BT, positions_BPT, lengths_B, prefix_length_B) -> list[np.ndarray]:
        """Logits [B, V] and new keys and values [2L, B, K, T, D]."""
        for handle, part in zip(self._past, past, strict=True):
            handle.share_external_data(part)
        arrays = (ids_BT, positions_BPT, lengths_B, prefix_length_B)
        for handle, array in zip(self._inputs.values(), arrays, strict=True):
            handle.copy_from_cpu(np.ascontiguousarray(array, dtype="int64"))
        return run_predictor(self._predictor)

    def _write(self, cache: PaddleCache, slots: Sequence[int], starts: Sequence[int], new: np.ndarray) -> None:
        width = new.shape[3]
        if not np.isfinite(new.sum()):
            # Hidden positions count 0 times, and 0 · nan would be nan in every later sequence of the slot.
            raise GLMError(
                f"the model's keys or values became nan or infinite ({self._dtype}): its weights are damaged, or its "
                "numbers overflow: export it with --dtype bfloat16 or float32"
            )
        values = new if self._device == "cpu" else paddle.to_tensor(new, self._dtype, place=self._device)
        for place, (slot, start) in enumerate(zip(slots, starts, strict=True)):
            cache.store[:, slot, :, start : start + width] = values[:, place]


def graph_shapes(model_file: Path) -> tuple[dict[str, tuple[list[int], str]], list[list[int]]]:
    """Inputs by name with shape and dtype, and the shapes of the outputs; -1 where they are free.

    Paddle's predictor tells neither before it has run, so they are read from the program's JSON.

    Raises:
        GLMError: the file is missing or damaged.
    """
    if not model_file.is_file():
        raise GLMError(f"{model_file} is missing: export the model with --format paddle")
    program = read_json(model_file, "export the model again")
    try:
        operators = program["program"]["regions"][0]["blocks"][0]["ops"]
        inputs = [{a["N"]: a["AT"]["D"] for a in op["A"]} for op in operators if op["#"] == "1.data"]
        outputs = [op["O"][0]["TT"]["D"][1] for op in operators if op["#"] == "1.fetch"]
        return {entry["name"]: (entry["shape"], entry["dtype"]) for entry in inputs}, outputs
    except (KeyError, IndexError, TypeError) as error:
        raise GLMError(f"{model_file} is damaged ({type(error).__name__}: {error}): export the model again") from None


def _parts(store: Store) -> list[Tensor]:
    """Each layer's keys and values as tensors over the same memory."""
    if isinstance(store, np.ndarray):
        return [paddle.utils.dlpack.from_dlpack(part) for part in store]
    return [store[index] for index in range(store.shape[0])]


def _contiguous(store: Store) -> Store:
    return np.ascontiguousarray(store) if isinstance(store, np.ndarray) else store.contiguous()


def _copied(store: Store) -> Store:
    return store.copy() if isinstance(store, np.ndarray) else store.clone()

"""Step graphs (glm/export/paddle_step.py) in Paddle Inference: CPU, CUDA GPU and NPU. No PaddleNLP.

The cache lies on the device. The graph reads it where it lies and returns the new keys and values, which are then
written into it: on a CPU by numpy, elsewhere by Paddle, in the same words. Shapes: as in glm/runtime/step.py.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from glm.errors import GLMError
from glm.files.json_files import read_json
from glm.runtime.columns import INPUTS, ColumnCache, ColumnStepRuntime
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_inference import open_predictor, run_predictor

Store = np.ndarray | Tensor


@dataclass(eq=False)
class PaddleCache(ColumnCache):
    """Keys and values of all layers.

    Attributes:
        views: by address and B, what the graph reads: the first B slots of every part of the store.
    """

    views: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)

    def first_rows(self, count: int) -> list[Tensor]:
        # A device that cannot write a part in place gives the store another memory instead.
        address = self.store.ctypes.data if isinstance(self.store, np.ndarray) else self.store.data_ptr()
        if (address, count) not in self.views:
            self.views = {key: views for key, views in self.views.items() if key[0] == address}
            self.views[address, count] = _parts(self.store[:, :count])
        return self.views[address, count]


class PaddleStepRuntime(ColumnStepRuntime):
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
        self._inputs = {name: self._predictor.get_input_handle(name) for name in inputs if name in INPUTS}
        self._past = [self._predictor.get_input_handle(name) for name in past]
        (_, heads, _, head_dim), dtype = inputs[past[0]]
        super().__init__(
            past=past,
            heads=heads,
            head_dim=head_dim,
            vocab_size=outputs[0][-1],
            capacity=options.capacity,
            dtype=dtype,
            any_columns="last" in inputs,  # from format version 5 on
        )

    def new_cache(self, slots: int, max_length: int) -> PaddleCache:
        shape = self._shape(slots, max_length)
        if self._device == "cpu":
            return PaddleCache(np.zeros(shape, self._dtype))
        return PaddleCache(paddle.zeros(shape, self._dtype, device=self._device))

    def _run(self, past: list[Tensor], feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        for handle, part in zip(self._past, past, strict=True):
            handle.share_external_data(part)
        for name, handle in self._inputs.items():
            handle.copy_from_cpu(feeds[name])
        logits, new = run_predictor(self._predictor)
        return logits, new

    def _contiguous(self, store: Store) -> list[Tensor]:
        return _parts(np.ascontiguousarray(store) if isinstance(store, np.ndarray) else store.contiguous())

    def _first_rows(self, cache: PaddleCache, count: int, _: int) -> list[Tensor]:
        return cache.first_rows(count)

    def _copied(self, store: Store) -> Store:
        return store.copy() if isinstance(store, np.ndarray) else store.clone()

    def _stored(self, new: np.ndarray) -> Store:
        return new if self._device == "cpu" else paddle.to_tensor(new, self._dtype, place=self._device)


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

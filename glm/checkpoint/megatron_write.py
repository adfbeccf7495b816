"""Megatron-core checkpoints of GLM-4 models, planned: which rank's file holds what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glm.checkpoint.file_layout import Layout
from glm.checkpoint.megatron import stage_layers
from glm.checkpoint.megatron_names import LAYER, MEGATRON, OUTPUT, require_family
from glm.checkpoint.names import TensorEntry
from glm.checkpoint.slices import WholeWeight
from glm.checkpoint.tiles import Outgoing
from glm.checkpoint.torch_layout import Namespace, TorchDtype, torch_layout
from glm.config.megatron_args import args_of_config
from glm.distributed.plan import is_padded, padded
from glm.errors import GLMError
from glm.pickles.megatron import RANK_FILE, folder_name, rank_name

ITERATION = 1  # what Megatron's own converters write, so that training begins behind it
_VERSION = 3.0  # of the checkpoint: queries, keys and values by group
_FIRST, _LAST = ("embedding.",), ("decoder.final_layernorm.", "output_layer.")


@dataclass(frozen=True)
class Ranks:
    """Into what a model is divided.

    Attributes:
        degree: of tensor parallelism.
        stages: of pipeline parallelism.
        layers: of every stage; equal if not given.
        multiple: of which a tensor-parallel rank's rows of the vocabulary are one (make_vocab_size_divisible_by).
    """

    degree: int = 1
    stages: int = 1
    layers: tuple[int, ...] | None = None
    multiple: int = 1

    def check(self, config: Any) -> None:
        """Raises GLMError where Megatron has no such model, or cannot divide it so."""
        require_family(config, "the model")
        groups = config.num_key_value_heads
        if groups % self.degree:
            raise GLMError(
                f"tensor_parallel_degree {self.degree} does not divide the {groups} key/value groups "
                f"(num_key_value_heads), of which Megatron's ranks hold whole ones: choose a divisor of {groups}"
            )
        if self.multiple < 1:
            raise GLMError(f"make_vocab_size_divisible_by is {self.multiple}, and must be 1 or more")
        args_of_config(config)
        self.cut(config)

    def cut(self, config: Any) -> list[range]:
        """The layers of every stage. Raises GLMError where these do not divide them."""
        return stage_layers(config.num_hidden_layers, self.stages, self.layers)

    def rows(self, config: Any) -> int:
        """Of the vocabulary with its padding."""
        return padded(config.vocab_size, self.multiple * self.degree)


class Repeated:
    """A weight whose vocabulary is padded with copies of its last row; otherwise a `WholeWeight` as it was given."""

    def __init__(self, weight: WholeWeight, rows: int):
        self._weight, self._size = weight, weight.shape[weight.axis]
        self.name, self.axis, self.split, self.dtype = weight.name, weight.axis, weight.split, weight.dtype
        self.transposed, self.release = weight.transposed, weight.release
        shape = list(weight.shape)
        shape[weight.axis] = rows
        self.shape = tuple(shape)

    def read(self, block: tuple[slice, ...]) -> np.ndarray:
        """As of `WholeWeight`."""
        where = block[self.axis]
        stop = min(where.stop, self._size)
        pieces = [self._along(block, where.start, stop)] if where.start < stop else []
        missing = where.stop - max(where.start, self._size)
        if missing > 0:
            pieces.append(np.repeat(self._along(block, self._size - 1, self._size), missing, axis=self.axis))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=self.axis)

    def _along(self, block: tuple[slice, ...], start: int, stop: int) -> np.ndarray:
        changed = list(block)
        changed[self.axis] = slice(start, stop)
        return self._weight.read(tuple(changed))


def megatron_files(
    ranks: Ranks, config: Any, weights: Mapping[str, WholeWeight], *, dtype: np.dtype | None, tile: int
) -> dict[str, Layout]:
    """Every rank's file, by its name in the target directory.

    Args:
        ranks: which the model can be divided into (`Ranks.check`).
        weights: all of the model, by in-memory name.
        dtype, tile: as of `Outgoing`.
    Raises:
        GLMError: weights that share a tensor are of different types.
    """
    rows, said = ranks.rows(config), dtype or weights["model.embed_tokens.weight"].dtype
    sources = {name: Repeated(weight, rows) if is_padded(name) else weight for name, weight in weights.items()}
    files = {}
    for stage, layers in enumerate(ranks.cut(config)):
        entries = _stage_rows(config, layers, ranks.stages)
        for rank in range(ranks.degree):
            how = {"torch_layout": True, "dtype": dtype, "rank": rank, "degree": ranks.degree, "tile": tile}
            tensors = [Outgoing(row, [sources[name] for name in row.memory], config, **how) for row in entries]
            name = f"{folder_name(ITERATION)}/{rank_name((rank, stage), ranks.stages)}/{RANK_FILE}"
            files[name] = _layout(ranks, config, tensors, str(said))
    return files


def _stage_rows(config: Any, layers: range, stages: int) -> list[TensorEntry]:
    """What one stage holds, its layers counted from 0."""
    first, last = layers.start == 0, layers.stop == config.num_hidden_layers
    rows = []
    for row in MEGATRON.expand(config):
        match = LAYER.fullmatch(row.stored)
        if match and int(match[2]) in layers:
            rows.append(replace(row, stored=f"{match[1]}{int(match[2]) - layers.start}{match[3]}"))
        elif (first and row.stored.startswith(_FIRST)) or (last and row.stored.startswith(_LAST)):
            rows.append(row)
    if config.tie_word_embeddings and last and stages > 1:  # the last stage has its own copy
        rows.append(TensorEntry(OUTPUT, ("model.embed_tokens.weight",), extra_rows=True))
    return rows


def _layout(ranks: Ranks, config: Any, tensors: Sequence[Outgoing], dtype: str) -> Layout:
    content = {
        "args": Namespace(_args(ranks, config, dtype)),
        "checkpoint_version": _VERSION,
        "iteration": ITERATION,
    }
    return torch_layout(RANK_FILE.partition(".")[0], content, {"model": tensors})


def _args(ranks: Ranks, config: Any, dtype: str) -> dict[str, Any]:
    listed = ",".join(map(str, ranks.layers)) if ranks.layers else None
    return args_of_config(config) | {
        "padded_vocab_size": ranks.rows(config),
        "make_vocab_size_divisible_by": ranks.multiple,
        "tensor_model_parallel_size": ranks.degree,
        "pipeline_model_parallel_size": ranks.stages,
        "virtual_pipeline_model_parallel_size": None,
        "num_layers_per_virtual_pipeline_stage": None,
        "num_layer_list": listed,
        "sequence_parallel": False,
        "transformer_impl": "local",
        "use_mcore_models": True,
        "ckpt_format": "torch",
        "params_dtype": TorchDtype(dtype),
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "iteration": ITERATION,
        "consumed_train_samples": 0,
        "consumed_valid_samples": 0,
    }

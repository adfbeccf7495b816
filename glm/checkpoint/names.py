"""Which tensor on disk is which weight in memory: one table a source format.

In memory (every generation): Hugging Face's names, Paddle's [in, out] linear weights, separate q, k, v.
A table row says where a weight is stored, whether torch stores it transposed, how several weights share one stored
tensor, and along which axis tensor-parallel files split it. Reading and writing both run from the rows.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from glm.errors import GLMError

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Packing:
    """How several matrices share the last axis of one stored tensor.

    The axis consists of `groups` equal blocks, and each block holds a slice of every part, with widths as `ratios`
    says. A string stands for the config attribute of that name. Fused q|k|v is (1, 1, 1) in one group; q, k, v packed
    per head is (1, 1, 1) in num_attention_heads groups; fused q|k|v with fewer key/value heads has the head counts as
    ratios.
    """

    ratios: tuple[int | str, ...] = (1,)
    groups: int | str = 1

    def unpack(self, tensor: np.ndarray, config: Any) -> list[np.ndarray]:
        """Split [..., width] into parts [..., width · ratio / sum(ratios)], as views where possible.

        Raises:
            ValueError: when the width cannot be divided so.
        """
        ratios, groups = self._numbers(config)
        lead, width = tensor.shape[:-1], tensor.shape[-1]
        unit, rest = divmod(width, groups * sum(ratios))
        if rest:
            raise ValueError(f"its last axis is not a multiple of {groups * sum(ratios)}")
        if self.groups == 1:
            return np.split(tensor, np.cumsum(ratios)[:-1] * unit, axis=-1)
        blocks = tensor.reshape(*lead, groups, width // groups)
        return [part.reshape(*lead, -1) for part in np.split(blocks, np.cumsum(ratios)[:-1] * unit, axis=-1)]

    def pack(self, parts: list[np.ndarray], config: Any) -> np.ndarray:
        """The inverse of `unpack`."""
        if len(parts) == 1:
            return parts[0]
        _, groups = self._numbers(config)
        lead = parts[0].shape[:-1]
        blocks = [part.reshape(*lead, groups, -1) for part in parts]
        return np.concatenate(blocks, axis=-1).reshape(*lead, -1)

    def _numbers(self, config: Any) -> tuple[list[int], int]:
        ratios = [getattr(config, ratio) if isinstance(ratio, str) else ratio for ratio in self.ratios]
        return ratios, getattr(config, self.groups) if isinstance(self.groups, str) else self.groups


ALONE = Packing()
FUSED_QKV = Packing((1, 1, 1))
QKV_PER_HEAD = Packing((1, 1, 1), groups="num_attention_heads")

COLUMN, ROW = -1, 0  # axis of Paddle's [in, out] layout that tensor parallel splits


@dataclass(frozen=True)
class Row:
    """One stored tensor.

    Args:
        stored: its name on disk, `{i}` for the layer number, without the table's prefix.
        memory: the names of the weights in it.
        linear: a matrix that is [in, out] in Paddle's layout and [out, in] in torch's.
        split: COLUMN, ROW, or None where every tensor-parallel rank has all of it.
        packing: how the weights share it.
        shard_packing: the same inside tensor-parallel files, where it differs.
    """

    stored: str
    memory: tuple[str, ...]
    linear: bool = False
    split: int | None = None
    packing: Packing = ALONE
    shard_packing: Packing | None = None


@dataclass(frozen=True)
class NameTable:
    """The rows of a source format.

    Args:
        rows: one a stored tensor; those with `{i}` repeat for every layer.
        prefixes: what may stand in front of every stored name; the first is the one that is written.
        tied: stored copies of another weight, dropped after a comparison if config.tie_word_embeddings.
        ignored: patterns of stored names that hold no weight.
    """

    rows: tuple[Row, ...]
    prefixes: tuple[str, ...] = ("",)
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def expand(self, layers: int, prefix: str | None = None) -> list[Row]:
        """All rows with their full stored names, layer by layer; by default with the prefix that is written."""
        prefix = self.prefixes[0] if prefix is None else prefix
        once = [row for row in self.rows if "{i}" not in row.stored]
        layered = [row for row in self.rows if "{i}" in row.stored]
        rows = once + [_at_layer(row, i) for i in range(layers) for row in layered]
        return [replace(row, stored=prefix + row.stored) for row in rows]

    def identity(self, layers: int) -> list[Row]:
        """Rows for files that already carry the in-memory names."""
        return [Row(name, (name,), row.linear, row.split) for row in self.expand(layers) for name in row.memory]

    def is_ignored(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored)


def _at_layer(row: Row, i: int) -> Row:
    return replace(row, stored=row.stored.format(i=i), memory=tuple(name.format(i=i) for name in row.memory))


def _linear(stored: str, *memory: str, split: int, **packing: Packing) -> list[Row]:
    """Weight and bias; a row-parallel layer's bias is whole on every rank."""
    weights, biases = (tuple(f"{name}.{kind}" for name in memory) for kind in ("weight", "bias"))
    return [
        Row(f"{stored}.weight", weights, linear=True, split=split, **packing),
        Row(f"{stored}.bias", biases, split=COLUMN if split == COLUMN else None, **packing),
    ]


def _norm(stored: str, memory: str) -> list[Row]:
    return [Row(f"{stored}.{kind}", (f"{memory}.{kind}",)) for kind in ("weight", "bias")]


_STORED, _LAYER = "transformer.layers.{i}", "model.layers.{i}"
_QKV = [f"{_LAYER}.self_attn.{part}_proj" for part in "qkv"]

# PaddleNLP's and Hugging Face's GLM (2021). In PaddleNLP's tensor-parallel files q, k, v alternate per head, so that a
# slice of the last axis is a slice of heads.
GLM = NameTable(
    prefixes=("glm.", ""),
    rows=(
        Row("word_embeddings.weight", ("model.embed_tokens.weight",), split=ROW),
        Row("transformer.position_embeddings.weight", ("model.positions.position_embeddings.weight",)),
        Row("transformer.block_position_embeddings.weight", ("model.positions.block_position_embeddings.weight",)),
        *_norm(f"{_STORED}.input_layernorm", f"{_LAYER}.input_layernorm"),
        *_linear(
            f"{_STORED}.attention.query_key_value", *_QKV, split=COLUMN, packing=FUSED_QKV, shard_packing=QKV_PER_HEAD
        ),
        *_linear(f"{_STORED}.attention.dense", f"{_LAYER}.self_attn.o_proj", split=ROW),
        *_norm(f"{_STORED}.post_attention_layernorm", f"{_LAYER}.post_attention_layernorm"),
        *_linear(f"{_STORED}.mlp.dense_h_to_4h", f"{_LAYER}.mlp.up_proj", split=COLUMN),
        *_linear(f"{_STORED}.mlp.dense_4h_to_h", f"{_LAYER}.mlp.down_proj", split=ROW),
        *_norm("transformer.final_layernorm", "model.norm"),
    ),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=("*.inv_freq",),
)

TABLES: dict[str, NameTable] = {"glm": GLM}


def table_of(config: Any) -> NameTable:
    """The table that config.checkpoint_table names.

    Raises:
        GLMError: when there is no such table.
    """
    if config.checkpoint_table not in TABLES:
        known = ", ".join(sorted(TABLES))
        raise GLMError(f"no checkpoint table is called {config.checkpoint_table!r}: choose one of {known}")
    return TABLES[config.checkpoint_table]


def match_rows(names: Iterable[str], config: Any, source: str) -> list[Row]:
    """The rows that describe a file with these stored names: the table's under one of its prefixes, or the identity.

    Raises:
        GLMError: when no name fits.
    """
    table, names = table_of(config), set(names)
    candidates = [table.expand(config.num_hidden_layers, prefix) for prefix in table.prefixes]
    candidates.append(table.identity(config.num_hidden_layers))
    rows = max(candidates, key=lambda rows: sum(row.stored in names for row in rows))
    if not any(row.stored in names for row in rows):
        found = ", ".join(sorted(names)[:3]) or "nothing"
        raise GLMError(
            f"{source} holds no weight of a {config.checkpoint_table} model: it has {found}, expected names like "
            f"{candidates[0][0].stored}: check that the directory holds the right model"
        )
    return rows


def is_torch_layout(shapes: Mapping[str, tuple[int, ...]], config: Any) -> bool | None:
    """Whether linear weights lie [out, in], seen from a column-parallel one, whose input is always hidden_size.

    Args:
        shapes: shapes [rows, columns] of stored column-parallel weights by name.
    Returns:
        None where the shapes do not tell.
    """
    for shape in shapes.values():
        if len(shape) == 2 and (shape[0] == config.hidden_size) != (shape[1] == config.hidden_size):
            return shape[1] == config.hidden_size
    return None


def to_memory(
    row: Row, ranks: Sequence[Tensors], config: Any, *, torch_layout: bool, source: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the weights of one row, from one file set or from the tensor-parallel ranks' (views where possible).

    Raises:
        GLMError: when the parts cannot be separated, or ranks differ in a tensor that each has whole.
    """
    tensor = _merge(row, [rank[row.stored] for rank in ranks], source)
    if torch_layout and row.linear:
        tensor = tensor.T
    packing = (row.shard_packing or row.packing) if len(ranks) > 1 else row.packing
    try:
        parts = packing.unpack(tensor, config)
    except ValueError as error:
        raise GLMError(
            f"{source}: {row.stored} {list(tensor.shape)} cannot be cut into {len(row.memory)} weights ({error}): "
            f"check num_attention_heads and hidden_size in config.json"
        ) from error
    yield from zip(row.memory, parts, strict=True)


def _merge(row: Row, shards: list[np.ndarray], source: str) -> np.ndarray:
    if len(shards) == 1:
        return shards[0]
    if row.split is not None:
        return np.concatenate(shards, axis=row.split)
    for rank, shard in enumerate(shards[1:], 1):
        if shard.shape != shards[0].shape or shard.tobytes() != shards[0].tobytes():
            raise GLMError(
                f"{source}: {row.stored} differs between tensor-parallel ranks 0 and {rank}, which share it: "
                f"the files come from different steps, take them from one checkpoint"
            )
    return shards[0]


def rank_slice(row: Row, name: str, array: np.ndarray, rank: int, degree: int) -> np.ndarray:
    """The part of a weight of `row` that one of `degree` tensor-parallel ranks holds, as a view.

    Raises:
        GLMError: when the axis cannot be divided among the ranks.
    """
    if row.split is None or degree == 1:
        return array
    width, rest = divmod(array.shape[row.split], degree)
    if rest:
        raise GLMError(
            f"{name} {list(array.shape)} cannot be divided among {degree} tensor-parallel ranks: "
            f"choose a degree that divides {array.shape[row.split]}"
        )
    part = slice(rank * width, (rank + 1) * width)
    return array[part] if row.split == ROW else array[..., part]


def from_memory(state: Tensors, config: Any, *, torch_layout: bool = False) -> dict[str, np.ndarray]:
    """The inverse of reading: stored names and tensors of a whole model, from its weights in memory.

    Raises:
        GLMError: naming weights that are missing or that the table does not know.
    """
    rows = table_of(config).expand(config.num_hidden_layers)
    known = [name for row in rows for name in row.memory]
    _require_equal_names(set(state), known, config)
    stored = {}
    for row in rows:
        tensor = row.packing.pack([np.asarray(state[name]) for name in row.memory], config)
        stored[row.stored] = tensor.T if torch_layout and row.linear else tensor
    return stored


def _require_equal_names(given: set[str], known: list[str], config: Any) -> None:
    missing = [name for name in known if name not in given]
    unknown = sorted(given - set(known))
    if missing or unknown:
        problems = [f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("has", unknown)) if names]
        raise GLMError(
            f"the state does not fit the {config.checkpoint_table} table for {config.num_hidden_layers} layers: it "
            f"{' and '.join(problems)}: pass the state of the whole model"
        )

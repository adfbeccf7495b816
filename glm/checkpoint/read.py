"""Reading a checkpoint directory, whatever wrote it, into the in-memory layout, and whether it fits the model."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from glm.checkpoint.expert_stacks import expert_of, stacked
from glm.checkpoint.file_names import CONFIG_NAME, NUMBERED, PREDICTOR_NAME, WEIGHT_FILES, parts_there, shard_rank
from glm.checkpoint.files import Joined, TensorFile, join_parts, open_file
from glm.checkpoint.fp8 import Dequantised
from glm.checkpoint.fused_experts import with_single_experts
from glm.checkpoint.megatron import open_megatron
from glm.checkpoint.megatron_names import MEGATRON, require_family
from glm.checkpoint.names import NameTable, TensorEntry, is_torch_layout, match_rows, table_of
from glm.checkpoint.shards import open_shards
from glm.checkpoint.slices import read_row
from glm.config.quantization import fp8_form
from glm.errors import GLMError
from glm.files.json_files import read_json
from glm.pickles.megatron import is_megatron

logger = logging.getLogger(__name__)

_COPY_ROWS = 1024  # of a tied weight and its original that are compared at a time
_SHOWN = 5
_MAPPED = 1 << 20  # bytes that are read before the memory of mapped files is given back


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; tensors are read when they are asked for.

    Args:
        source: the file that was chosen, for messages.
        ranks: its tensors by stored name; several with tensor-parallel files, one per rank.
        table: of the names in its files, where it is not that of the model's family.
    """

    source: str
    ranks: list[TensorFile]
    table: NameTable | None = None

    def table_for(self, config: Any) -> NameTable:
        """The table of its names.

        Raises:
            GLMError: as `table_of`, or Megatron's files of a generation that is none of Megatron's.
        """
        if self.table is MEGATRON:
            require_family(config, self.source)
        return self.table or table_of(config)

    def tensors(
        self,
        config: Any,
        *,
        rank: int = 0,
        degree: int = 1,
        kv_replicas: int = 1,
        experts: range | None = None,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (name, array) in the in-memory layout, one stored tensor after the other.

        A rank reads its own part of each only, so its memory holds little more than what it keeps. Arrays are
        C-contiguous, writable and share no memory. Stored tensors that the table does not know come under their stored
        name, for `check_state` to name; tensors that are not there are simply not yielded.

        Args:
            config: needs checkpoint_table, num_hidden_layers, hidden_size, num_attention_heads, vocab_size,
                tie_word_embeddings.
            rank, degree, kv_replicas: yield only what this tensor-parallel rank of `degree` holds
                (`glm.distributed.plan.local_shard`).
            experts: of each layer, those to read; all unless given.
        Raises:
            GLMError: see `load_state`.
        """
        rows, torch_layout = self.rows(config)
        where = {"rank": rank, "degree": degree, "kv_replicas": kv_replicas, "torch_layout": torch_layout}
        experts = range(getattr(config, "n_routed_experts", 0)) if experts is None else experts
        wanted = [row for row in rows if (expert := expert_of(row.memory[0])) is None or expert in experts]
        yield from stacked(self._read(wanted, config, where), experts, self.source)
        for name in self.unknown(rows, config):
            yield name, np.array(self.ranks[0][name], order="C")

    def _read(self, rows: list[TensorEntry], config: Any, where: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        size = 0
        for row in rows:
            for name, array in read_row(row, self.ranks, config, **where):
                size += array.nbytes
                yield name, array
            if size > _MAPPED:  # mapping files anew takes longer than reading what is small
                size = 0
                for file in self.ranks:
                    file.release()

    def rows(self, config: Any) -> tuple[list[TensorEntry], bool]:
        """The table's rows whose tensors are there, and whether linear weights lie [out, in] in the files.

        Raises:
            GLMError: no name fits the table, or tensor-parallel files hold different names.
        """
        names = self._names()
        rows = [row for row in match_rows(names, config, self.source, self.table_for(config)) if row.stored in names]
        return rows, self._torch_layout(rows, config)

    def _names(self) -> set[str]:
        names = set(self.ranks[0])
        for tensors in self.ranks[1:]:
            odd = sorted(names.symmetric_difference(tensors))
            if odd:
                raise GLMError(
                    f"{tensors.path}: only one of it and {self.ranks[0].path.name} holds {', '.join(odd[:5])}: "
                    f"take all files from one checkpoint"
                )
        return names

    def _torch_layout(self, rows: list[TensorEntry], config: Any) -> bool:
        """The weights' own shapes decide; the format's label only where every matrix is square."""
        label = self.ranks[0].torch_layout
        shapes = {row.stored: self.ranks[0].shape(row.stored) for row in rows if row.reads_hidden}
        seen = is_torch_layout(shapes, config)
        if seen is not None and label is not None and seen != label:
            marked, lies = ("torch", "[in, out]") if label else ("Paddle", "[out, in]")
            logger.warning("%s is marked as %s's, but its weights lie %s: reading them so", self.source, marked, lies)
        return bool(label if seen is None else seen)

    def unknown(self, rows: list[TensorEntry], config: Any) -> list[str]:
        """Stored names that are no row's, and neither ignored nor copies of tied weights.

        Raises:
            GLMError: such a copy differs from its original.
        """
        table = self.table_for(config)
        known = {row.stored for row in (*rows, *table.carried(config))}
        tied = table.tied if config.tie_word_embeddings else {}
        stored_as = {name: row.stored for row in rows for name in row.memory}
        rest = [name for name in self.ranks[0] if name not in known and not table.is_ignored(name)]
        for name in [name for name in rest if stored_as.get(tied.get(name)) is not None]:
            self._require_copy(name, stored_as[tied[name]])
            rest.remove(name)
        return rest

    def _require_copy(self, name: str, original: str) -> None:
        for tensors in self.ranks:
            if not _equal(tensors, name, original):
                raise GLMError(
                    f"{self.source}: {name} differs from {original}, but tie_word_embeddings says they are one: "
                    f"set it to false or remove {name} from the file"
                )


def _equal(tensors: TensorFile, first: str, second: str) -> bool:
    """Compare two stored tensors some rows at a time."""
    shape = tensors.shape(first)
    if shape != tensors.shape(second):
        return False
    starts = range(0, shape[0] if shape else 0, _COPY_ROWS)
    blocks = [(slice(i, min(i + _COPY_ROWS, shape[0])), *(slice(0, size) for size in shape[1:])) for i in starts]
    return all(np.array_equal(tensors.read(first, block), tensors.read(second, block)) for block in blocks)


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Find the weights in a directory and open them without reading tensors.

    Looks for safetensors, torch .bin, .pdparams (each with or without index), then PaddleNLP's
    `model_state.tpNN_ppNN.pdparams` of parallel ranks, then Megatron's folders, then all parts of a model whose index
    is missing; the first that is there is taken, and the log says which others were not.

    Raises:
        GLMError: when there is none, a shard is missing, or a file is damaged or refused.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise GLMError(f"{directory} is not a directory: give the directory that holds the model's files")
    there = sorted(path.name for path in directory.iterdir())
    shards, megatron = [name for name in there if shard_rank(name)], is_megatron(directory)
    found = [name for name in WEIGHT_FILES if (directory / name).is_file()]
    kinds = found + shards[:1] + ["Megatron's"] * megatron
    if not kinds:
        if parts := parts_there(there):
            return _without_index(directory, *parts)
        known = ", ".join((*WEIGHT_FILES, "model_state.tpNN.pdparams", "iter_N/mp_rank_NN/model_optim_rng.pt"))
        found = ", ".join(there[:8]) or "nothing"
        raise GLMError(f"{directory} holds no weights: found {found}; give a directory with one of {known}")
    if len(kinds) > 1:
        logger.warning("%s: reading %s, not %s", directory, kinds[0], ", ".join(kinds[1:]))
    if found:
        return Checkpoint(str(directory / found[0]), [_seen(open_file(directory / found[0]), directory)])
    if shards:
        return Checkpoint(str(directory / "model_state.tpNN.pdparams"), open_shards(directory, shards))
    folder, ranks = open_megatron(directory)
    return Checkpoint(str(folder), ranks, MEGATRON)


def _seen(file: TensorFile, directory: Path) -> TensorFile:
    """A file with what lies beside it, in the numbers and under the names that the tables know."""
    extra = directory / PREDICTOR_NAME
    if file.torch_layout is not False and extra.is_file():
        more = open_file(extra)
        file = Joined(file.path, dict.fromkeys(file, file) | {name: more for name in more if name not in file})
    config = directory / CONFIG_NAME
    form = fp8_form(read_json(config).get("quantization_config")) if config.is_file() else None
    return with_single_experts(Dequantised(file, form) if form else file)


def load_state(
    directory: str | Path, config: Any, *, rank: int = 0, degree: int = 1, kv_replicas: int = 1
) -> dict[str, np.ndarray]:
    """Read a model, or one tensor-parallel rank's part of it, in the in-memory layout (see `Checkpoint.tensors`).

    Raises:
        GLMError: when no weights are there, a file is missing, damaged or refused, the names are of another model, a
            fused tensor cannot be cut, tensor-parallel ranks contradict each other, or a tied weight differs from its
            original, or the degree does not divide a weight.
    """
    return dict(open_checkpoint(directory).tensors(config, rank=rank, degree=degree, kv_replicas=kv_replicas))


def _without_index(directory: Path, index: str, parts: list[str], missing: list[str]) -> Checkpoint:
    """A model in parts that tell what they hold themselves. Raises GLMError where one is missing, or is too many."""
    if missing:
        raise GLMError(
            f"{directory} holds {parts[0]}, but neither {index} nor {', '.join(missing[:5])}: download all parts and "
            f"the index, or if the save was not finished, take an earlier checkpoint"
        )
    strangers = [name for name in parts if NUMBERED.fullmatch(name)[3] != NUMBERED.fullmatch(parts[-1])[3]]
    if strangers:
        raise GLMError(f"{directory} lacks {index}, and {strangers[0]} is none of the parts of {parts[-1]}: remove it")
    joined = join_parts([directory / name for name in parts], directory / index)
    logger.warning("%s: %s is missing, reading all %d parts without it", directory, index, len(parts))
    return Checkpoint(str(directory / index), [_seen(joined, directory)])


def check_state(state: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Compare names, shapes and the number of parameters with what the model needs.

    Args:
        state: weights by in-memory name.
        expected: shapes by in-memory name.
        source: the file or directory, for the message.
    Raises:
        GLMError: one line with every kind of difference, up to five names of each, and both parameter counts.
    """
    found = {name: tuple(array.shape) for name, array in state.items()}
    shapes = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != tuple(shape)
    ]
    problems = [
        _list("missing", [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]),
        _list("unexpected", [f"{name} {list(shape)}" for name, shape in found.items() if name not in expected]),
        _list("of the wrong shape", shapes),
    ]
    if any(problems):
        counts = sum(map(prod, found.values())), sum(map(prod, expected.values()))
        raise GLMError(
            f"{source} does not fit the model: {'; '.join(filter(None, problems))}; it holds {counts[0]:,} parameters, "
            f"the model has {counts[1]:,}: check that config.json belongs to these weights"
        )


def _list(kind: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {kind}: {', '.join(items[:_SHOWN])}{more}"

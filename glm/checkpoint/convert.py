"""Converting a checkpoint directory, to any format from any, file by file, a few megabytes at a time."""

import logging
import shutil
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from glm.checkpoint.conversion import Conversion, Report
from glm.checkpoint.file_layout import Layout, pdparams_layout, safetensors_layout, write_layout
from glm.checkpoint.file_names import CONFIG_NAME, SHARD_NAME, part_names, remove_weight_file, weight_names
from glm.checkpoint.journal import Journal, fingerprint
from glm.checkpoint.megatron_write import ITERATION, megatron_files
from glm.checkpoint.names import TensorEntry, table_of
from glm.checkpoint.peak_memory import PeakMemory
from glm.checkpoint.read import Checkpoint, open_checkpoint
from glm.checkpoint.side_files import (
    carried_files,
    converted_config,
    remove_side_files,
    require_no_export,
    side_file_names,
)
from glm.checkpoint.slices import WholeWeight, stored_tensors
from glm.checkpoint.tiles import Outgoing, numpy_dtype, tile_size
from glm.config.families import FAMILIES
from glm.config.fields import ConfigFields, PlainConfig
from glm.config.shapes import stays_float32
from glm.errors import GLMError
from glm.files.atomic import atomic_file, write_bytes, write_json
from glm.pickles.megatron import TRACKER

logger = logging.getLogger(__name__)

_SHOWN = 5


def convert_checkpoint(conversion: Conversion, *, show_bar: bool = False) -> Report:
    """Convert a checkpoint directory, or continue a conversion that was killed.

    Weights are read and written in tiles of a few megabytes, so memory does not grow with model, tensor or file.
    Nothing in the target can be read as a model before all of it is there.

    Args:
        show_bar: a progress bar in bytes, on standard error.
    Raises:
        GLMError: source missing, foreign, damaged or incomplete; a target that holds a model or another unfinished
            conversion; a degree that does not divide the model; no room on the disk.
    """
    memory, begin = PeakMemory(), time.perf_counter()
    conversion.check()
    config = PlainConfig.from_pretrained(str(conversion.source))
    if conversion.ranks:
        conversion.ranks.check(config)
    config = config.changed(tensor_parallel_degree=conversion.degree)
    target_config = _target_config(conversion, config)
    checkpoint = open_checkpoint(conversion.source)
    weights, extra = open_weights(checkpoint, config)
    stays = target_config is config and checkpoint.table is None and not conversion.ranks
    plan = _plan(conversion, target_config, weights, extra if stays else [])
    sources = fingerprint(conversion.source, source_files(conversion.source))
    journal = Journal(conversion.target, conversion.command, sources)
    _refuse_files(conversion, journal)
    if journal.restarted:
        logger.warning("%s has changed since %s was begun: starting anew", conversion.source, conversion.target)
    with journal.opened():
        written = _write_files(plan, journal, show_bar)
        carried = carried_files(conversion.source, same_code=target_config is config)
        _finish(conversion, plan, journal, carried, converted_config(config, target_config, conversion))
    tensors = [tensor for layout in plan.values() for _, tensor in layout.places]
    return Report(
        files=len(plan),
        tensors=len(tensors),
        parameters=sum(prod(weight.shape) for weight in weights.values()),
        size=sum(layout.size for layout in plan.values()),
        written=written,
        seconds=time.perf_counter() - begin,
        peak_memory=memory.growth(),
    )


def source_files(source: Path) -> list[Path]:
    """All on which the result depends."""
    return [source / name for name in (CONFIG_NAME, *weight_names(source)) if (source / name).is_file()]


def open_weights(
    checkpoint: Checkpoint, config: Any
) -> tuple[dict[str, WholeWeight], list[tuple[TensorEntry, WholeWeight]]]:
    """Every weight of a checkpoint by in-memory name, none of them read, and what the table ignores or carries along.

    Experts are apart, as in files (glm/checkpoint/expert_stacks.py).

    Raises:
        GLMError: naming weights that are missing or unknown, or a vocabulary that is not config.json's.
    """
    rows, torch_layout = checkpoint.rows(config)
    known, table = {row.stored for row in rows}, checkpoint.table_for(config)
    carried = [TensorEntry(name, (name,)) for name in checkpoint.ranks[0] if table.is_ignored(name)]
    carried += [row for row in table.carried(config) if row.stored in checkpoint.ranks[0]]
    weights = dict(full_weights(rows, checkpoint, config, torch_layout))
    extra = [(row, weight) for row in carried for _, weight in full_weights([row], checkpoint, config, torch_layout)]
    expected = {name for row in table.expand(config) for name in row.memory}
    problems = {
        "lacks": sorted(expected.difference(weights)),
        "has unknown": checkpoint.unknown(rows, config) if known else [],
    }
    texts = [f"{word} {len(names)} weights: {', '.join(names[:_SHOWN])}" for word, names in problems.items() if names]
    if texts:
        raise GLMError(
            f"{checkpoint.source} {' and '.join(texts)}: check that config.json belongs to these weights, and that all "
            f"files are there"
        )
    _require_vocabulary(checkpoint, weights["model.embed_tokens.weight"], config)
    return weights, extra


def full_weights(
    rows: list[TensorEntry], checkpoint: Checkpoint, config: Any, torch_layout: bool
) -> Iterator[tuple[str, WholeWeight]]:
    """The weights of some rows, none of them read."""
    for row in rows:
        tensors = stored_tensors(row, checkpoint.ranks, config, torch_layout)
        for index, name in enumerate(row.memory):
            yield name, WholeWeight(name, index, tensors, config)
        tensors[0].file.release()


def _require_vocabulary(checkpoint: Checkpoint, embedding: WholeWeight, config: Any) -> None:
    if embedding.shape != (config.vocab_size, config.hidden_size):
        raise GLMError(
            f"{checkpoint.source} holds a word embedding {list(embedding.shape)}, config.json asks for "
            f"[{config.vocab_size}, {config.hidden_size}]: check that it belongs to these weights"
        )


def _refuse_files(conversion: Conversion, journal: Journal) -> None:
    if journal.moving:
        return
    require_no_export(conversion.target)
    there = [*weight_names(conversion.target), *side_file_names(conversion.target)]
    if there and not conversion.overwrite:
        raise GLMError(f"{conversion.target} already holds {there[0]}: choose another target, or add --overwrite")


def _target_config(conversion: Conversion, config: ConfigFields) -> ConfigFields:
    """The source's own config, or one of the family that stands for it in the target."""
    family = conversion.form.families.get(config.family, config.family)
    if family is None:
        raise GLMError(f"{conversion.source} is of family {config.family}, which has no remote-code form")
    if family == config.family:
        return config
    return config.changed(family=family, checkpoint_table=FAMILIES[family].parts["checkpoint_table"])


def _plan(
    conversion: Conversion, config: Any, weights: dict[str, WholeWeight], extra: list[tuple[TensorEntry, WholeWeight]]
) -> dict[str, Layout]:
    """Every weight file that will be there, by name."""
    if conversion.ranks:
        dtype = numpy_dtype(conversion.dtype) if conversion.dtype else None
        return megatron_files(conversion.ranks, config, weights, dtype=dtype, tile=_tile(conversion))
    if conversion.degree > 1:
        return {
            SHARD_NAME.format(rank): pdparams_layout(_outgoing(conversion, config, weights, extra, rank))
            for rank in range(conversion.degree)
        }
    parts = _divide(_outgoing(conversion, config, weights, extra), conversion.max_shard_size)
    layout = {"safetensors": safetensors_layout, "pdparams": pdparams_layout}[conversion.form.weight_format]
    names = part_names(conversion.form.weight_format, len(parts))
    return {name: layout(part) for name, part in zip(names, parts, strict=True)}


def _outgoing(
    conversion: Conversion,
    config: Any,
    weights: dict[str, WholeWeight],
    extra: list[tuple[TensorEntry, WholeWeight]],
    rank: int = 0,
) -> list[Outgoing]:
    how = {"torch_layout": conversion.form.torch_layout, "rank": rank, "degree": conversion.degree}
    how["tile"] = _tile(conversion)
    tensors = [
        Outgoing(row, [weights[name] for name in row.memory], config, dtype=_dtype(conversion, row), **how)
        for row in table_of(config).expand(config)
    ]
    return tensors + [Outgoing(row, [weight], config, **how) for row, weight in extra]


def _tile(conversion: Conversion) -> int:
    return tile_size(max(path.stat().st_size for path in source_files(conversion.source)))


def _dtype(conversion: Conversion, row: TensorEntry) -> np.dtype | None:
    """Of the written tensor, None for the source's own."""
    if not conversion.dtype:
        return None
    return numpy_dtype("float32" if stays_float32(row.memory[0]) else conversion.dtype)


def _divide(tensors: list[Outgoing], room: int) -> list[list[Outgoing]]:
    """Tensors in order, in parts of at most so many bytes; a tensor that is larger is a part of its own."""
    parts: list[list[Outgoing]] = [[]]
    size = 0
    for tensor in tensors:
        if parts[-1] and size + tensor.nbytes > room:
            parts.append([])
            size = 0
        parts[-1].append(tensor)
        size += tensor.nbytes
    return parts


def _write_files(plan: dict[str, Layout], journal: Journal, show_bar: bool) -> int:
    """Write what is not there yet; gives the number of bytes."""
    pending = {name: layout for name, layout in plan.items() if not journal.has(name)}
    size, total = (sum(layout.size for layout in layouts.values()) for layouts in (pending, plan))
    _require_room(journal.directory, size)
    bar = tqdm(total=total, initial=total - size, desc="convert", unit="B", unit_scale=True, disable=not show_bar)
    with bar:
        for name, layout in pending.items():
            (journal.directory / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(journal.directory / name) as temporary:
                write_layout(temporary, layout, bar.update)
            bar.update(layout.size - sum(tensor.nbytes for _, tensor in layout.places))
            journal.add(name)
    return size


def _require_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise GLMError(
            f"{directory} has {free:,} bytes free, and {needed:,} will be written: make room or choose another target"
        )


def _finish(
    conversion: Conversion, plan: dict[str, Layout], journal: Journal, carried: list[Path], config: dict[str, Any]
) -> None:
    """Put everything in its place; until config.json is there, which comes last, nothing reads as a model."""
    target, index = conversion.target, _index(conversion, plan)
    journal.begin_move()
    (target / CONFIG_NAME).unlink(missing_ok=True)
    for name in weight_names(target):
        if name not in plan:
            remove_weight_file(target, name)
    for name in plan:
        if journal.where(name) != target / name:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (journal.directory / name).replace(target / name)
    remove_side_files(target, keep={path.name for path in carried})
    for path in carried:
        with atomic_file(target / path.name) as temporary:
            shutil.copyfile(path, temporary)
    if conversion.ranks:
        write_bytes(target / TRACKER, f"{ITERATION}\n".encode())
    for name, content in (*index.items(), (CONFIG_NAME, config)):
        write_json(target / name, content)
    journal.end()


def _index(conversion: Conversion, plan: dict[str, Layout]) -> dict[str, Any]:
    """The index of several parts, by its name; of one file, or of tensor-parallel ones, there is none."""
    if len(plan) == 1 or conversion.degree > 1 or conversion.ranks:
        return {}
    name = part_names(conversion.form.weight_format, 1)[0] + ".index.json"
    weight_map = {tensor.row.stored: file for file, layout in plan.items() for _, tensor in layout.places}
    size = sum(tensor.nbytes for layout in plan.values() for _, tensor in layout.places)
    return {name: {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}}

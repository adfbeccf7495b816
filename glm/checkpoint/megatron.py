"""A Megatron-core checkpoint as an opened checkpoint: the stages of every tensor-parallel rank joined to one model."""

import logging
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from glm.checkpoint.files import Joined, MappedTensors
from glm.checkpoint.megatron_names import LAYER, canonical
from glm.config.megatron_args import layer_list, noop_layers
from glm.errors import GLMError
from glm.pickles.megatron import (
    OPTIMIZER_FILE,
    Rank,
    RankFile,
    iteration_folder,
    open_rank_file,
    rank_files,
    rank_name,
)

logger = logging.getLogger(__name__)

# What all ranks of one save say alike.
_ALIKE = (
    *("num_layers", "hidden_size", "num_attention_heads", "padded_vocab_size"),
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "num_layer_list", "noop_layers"),
)


def open_megatron(directory: Path) -> tuple[Path, list[Joined]]:
    """The folder of the latest iteration, and the tensors of every tensor-parallel rank.

    Raises:
        GLMError: a rank is missing or of another save, or the stages do not hold every layer once.
    """
    folder = iteration_folder(directory)
    paths = rank_files(folder)
    if any((path.parent / OPTIMIZER_FILE).exists() for path in paths.values()):
        logger.warning("%s: %s is passed over, weights alone are read", folder, OPTIMIZER_FILE)
    files = {rank: open_rank_file(path) for rank, path in paths.items()}
    degree, stages = _grid(folder, files)
    return folder, [_join(folder, [files[rank, stage] for stage in range(stages)]) for rank in range(degree)]


def _grid(folder: Path, files: Mapping[Rank, RankFile]) -> tuple[int, int]:
    """How many ranks and stages there are, and all of them are."""
    first = files[min(files)]
    for file in files.values():
        _require_alike(first, file)
    names = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    found = [max(numbers) + 1 for numbers in zip(*files, strict=True)]
    degree, stages = (first.args.get(name) or there for name, there in zip(names, found, strict=True))
    wanted = [(rank, stage) for rank in range(degree) for stage in range(stages)]
    if set(files) != set(wanted):
        missing, odd = (
            [rank_name(rank, stages) for rank in sorted(set(first) - set(second))]
            for first, second in ((wanted, files), (files, wanted))
        )
        what = f"lacks {', '.join(missing[:5])}" if missing else f"holds {', '.join(odd[:5])}"
        raise GLMError(
            f"{folder} {what}, and its args say {degree} tensor-parallel ranks of {stages} pipeline stages: copy the "
            "mp_rank folders of one save there"
        )
    return degree, stages


def _require_alike(first: RankFile, other: RankFile) -> None:
    said = [{"iteration": file.iteration} | {name: file.args.get(name) for name in _ALIKE} for file in (first, other)]
    for name, value in said[0].items():
        if said[1][name] != value:
            raise GLMError(
                f"{other.path} is of {name} {said[1][name]}, {first.path} of {value}: they are of different saves, "
                "take all ranks from one"
            )


def _join(folder: Path, stages: list[RankFile]) -> Joined:
    """One rank's tensors under the numbers that the layers have in the model."""
    chunks = _in_order(folder, stages)
    numbers = _layer_numbers(folder, stages[0].args, [chunk for _, chunk in chunks])
    part_of: dict[str, MappedTensors] = {}
    for (file, chunk), of_layer in zip(chunks, numbers, strict=True):
        arrays = {_numbered(name, of_layer): array for name, array in chunk.items()}
        part = MappedTensors(file.path, arrays, torch_layout=True, mapping=file.mapping)
        if twice := next((name for name in arrays if name in part_of), None):
            raise GLMError(f"{file.path} and {part_of[twice].path} both hold {twice}: take all stages from one save")
        part_of |= dict.fromkeys(arrays, part)
    if not part_of:
        raise GLMError(f"{folder} holds no tensors: take a checkpoint that Megatron-core has saved")
    return Joined(folder, part_of)


def _in_order(folder: Path, stages: list[RankFile]) -> list[tuple[RankFile, dict[str, np.ndarray]]]:
    """All parts of the model as it runs through them: the first virtual stage of every rank, then the second ones."""
    counts = {len(file.chunks) for file in stages}
    if len(counts) > 1 or 0 in counts:
        found = ", ".join(f"{file.path.parent.name} {len(file.chunks)}" for file in stages)
        raise GLMError(
            f"{folder} has models on its stages in these numbers, expected as many on each and at least 1: {found}: "
            "take all from one save"
        )
    named = [[{canonical(name): array for name, array in chunk.items()} for chunk in file.chunks] for file in stages]
    return [(file, named[stage][virtual]) for virtual in range(*counts) for stage, file in enumerate(stages)]


def _numbered(name: str, of_layer: Mapping[int, int]) -> str:
    match = LAYER.fullmatch(name)
    return f"{match[1]}{of_layer[int(match[2])]}{match[3]}" if match else name


def _layer_numbers(folder: Path, args: Mapping[str, Any], chunks: list[Mapping[str, Any]]) -> list[dict[int, int]]:
    """For every part of the model: number of a layer in it → number in the model.

    Raises:
        GLMError: layers are missing or too many, or the arguments divide them otherwise.
    """
    empty, total = noop_layers(args), args.get("num_layers")
    there = [{int(match[2]) for name in chunk if (match := LAYER.fullmatch(name))} for chunk in chunks]
    sizes = _sizes(folder, args, there, bool(empty))
    starts = list(accumulate(sizes, initial=0))
    if starts[-1] != total:
        raise GLMError(
            f"{folder} holds {' + '.join(map(str, sizes))} = {starts[-1]} layers in {len(sizes)} parts, and its args "
            f"say num_layers {total}: layers are missing or there twice, take all stages from one save"
        )
    full = [number for number in range(total) if number not in empty]
    place = {number: index for index, number in enumerate(full)}
    for start, size, found in zip(starts, sizes, there, strict=False):
        wanted = {number for number in range(size) if start + number in place}
        if found != wanted:
            odd = sorted(found ^ wanted)[0]
            raise GLMError(
                f"{folder} {'lacks' if odd in wanted else 'holds'} layer {odd} of the part of {size} layers that "
                f"begins at {start}, against its args (num_layers {total}): take all stages from one save"
            )
    return [{number: place[start + number] for number in found} for start, found in zip(starts, there, strict=False)]


def _sizes(folder: Path, args: Mapping[str, Any], there: list[set[int]], empty: bool) -> list[int]:
    """Layers of every part, those that hold nothing included, which no file shows: then they are equal."""
    if empty:
        size, rest = divmod(args["num_layers"], len(there))
        if rest:
            raise GLMError(f"{folder} divides num_layers {args['num_layers']} unequally among {len(there)} parts")
        return [size] * len(there)
    sizes = [max(found, default=-1) + 1 for found in there]
    stated = layer_list(args)
    if stated and stated != sizes:
        raise GLMError(
            f"{folder} holds {', '.join(map(str, sizes))} layers on its stages, and its args say num_layer_list "
            f"{', '.join(map(str, stated))}: take all stages from one save"
        )
    return sizes


def stage_layers(total: int, stages: int, stated: Sequence[int] | None) -> list[range]:
    """The layers of every stage that is to be written.

    Raises:
        GLMError: the stages do not divide the layers, or the list does not fit.
    """
    if stated is None and total % stages:
        raise GLMError(
            f"pipeline_parallel_degree {stages} does not divide num_layers {total}: choose another, or say how many "
            "layers each stage has with --num_layer_list"
        )
    counts = stated or [total // stages] * stages
    if len(counts) != stages or sum(counts) != total or min(counts) < 1:
        raise GLMError(
            f"num_layer_list {','.join(map(str, counts))} has {len(counts)} stages of {sum(counts)} layers, expected "
            f"{stages} stages of at least 1 layer, {total} together"
        )
    return [range(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]

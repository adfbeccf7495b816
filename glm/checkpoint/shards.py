"""PaddleNLP's files of parallel ranks, `model_state.tpNN_ppNN.pdparams`: one per tensor-parallel rank and stage.

A pipeline stage holds some layers of the model, under the names that they have in the whole model
(paddlenlp/transformers/model_utils.py, `PipelinePretrainedModel.state_dict`; transformers/utils.py,
`weight_name_suffix`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glm.checkpoint.file_names import SHARD_NAME, shard_rank
from glm.checkpoint.files import Joined, TensorFile, open_file
from glm.errors import GLMError
from glm.files.json_files import read_json


def open_shards(directory: Path, names: Sequence[str]) -> list[TensorFile]:
    """The tensors of every tensor-parallel rank, those of its stages together.

    Args:
        names: of the files that are there.
    Raises:
        GLMError: a rank or stage is missing, or there are two files for one; stages that both hold a tensor.
    """
    ranks = {shard_rank(name): name for name in names}
    degree, stages = (max(numbers) + 1 for numbers in zip(*ranks, strict=True))
    saved = _saved_degree(directory)
    if 1 < saved < degree:
        raise GLMError(
            f"{directory} holds {names[-1]}, but its config.json says tensor_parallel_degree {saved}: "
            f"remove the files of the other save"
        )
    if stages == 1:
        degree = max(saved, degree, 2)  # a single rank writes no rank number
    degree = max(saved, degree)
    missing = [_name(rank, stage, degree, stages) for rank in range(degree) for stage in range(stages)]
    missing = [name for name in missing if shard_rank(name) not in ranks]
    if missing:
        raise GLMError(
            f"{directory} lacks {', '.join(missing)} of {degree * stages} tensor-parallel files: copy all of them there"
        )
    if len(ranks) != len(names):
        raise GLMError(f"{directory} holds two files for one rank: {', '.join(names)}: remove the wrong one")
    files = {rank: open_file(directory / name) for rank, name in ranks.items()}
    return [_join(directory, [files[rank, stage] for stage in range(stages)]) for rank in range(degree)]


def _name(rank: int, stage: int, degree: int, stages: int) -> str:
    if stages == 1:
        return SHARD_NAME.format(rank)
    return f"model_state.tp{rank:02d}_pp{stage:02d}.pdparams" if degree > 1 else f"model_state.pp{stage:02d}.pdparams"


def _join(directory: Path, stages: list[TensorFile]) -> TensorFile:
    """A tied weight is on the first stage and on the last; others are on one."""
    if len(stages) == 1:
        return stages[0]
    part_of: dict[str, TensorFile] = {}
    for stage in stages:
        for name in stage:
            first = part_of.setdefault(name, stage)
            if first is not stage and not _same(first[name], stage[name]):
                raise GLMError(
                    f"{first.path} and {stage.path.name} both hold {name}, and not the same: take all from one save"
                )
    return Joined(directory, part_of)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.array_equal(first, second)


def _saved_degree(directory: Path) -> int:
    """tensor_parallel_degree of PaddleNLP's config.json, 0 if it says nothing."""
    try:
        return int(read_json(directory / "config.json").get("tensor_parallel_degree", 0))
    except (GLMError, ValueError, TypeError):
        return 0

"""Megatron-core checkpoints of its "torch" format: which files are there, and what is in one.

    DIRECTORY/latest_checkpointed_iteration.txt         a number, or `release`
    DIRECTORY/iter_0000001/mp_rank_00_000/model_optim_rng.pt

A folder per rank of tensor and pipeline parallelism; without pipeline parallelism the second number is left out.
Format: NVIDIA/Megatron-LM, megatron/training/checkpointing.py (`get_checkpoint_name`, `generate_state_dict`).
"""

import logging
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glm.errors import GLMError
from glm.pickles.any_names import ANY_NAMES, Fields, Unknown, any_storage
from glm.pickles.torch_file import open_torch
from glm.pickles.unpickle import map_file

logger = logging.getLogger(__name__)

TRACKER = "latest_checkpointed_iteration.txt"
RANK_FILE = "model_optim_rng.pt"
OPTIMIZER_FILE = "distrib_optim.pt"
_RELEASE = "release"
_FOLDER = re.compile(rf"iter_\d{{7,}}|{_RELEASE}")
_RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(_\d{3,})?")
_CHUNK = re.compile(r"model(\d*)")
_LARGEST_TRACKER = 64  # bytes

Rank = tuple[int, int]  # of tensor parallelism, of pipeline parallelism


def folder_name(iteration: int) -> str:
    return f"iter_{iteration:07d}"


def rank_name(rank: Rank, stages: int) -> str:
    """The folder of a rank where the model has so many pipeline stages."""
    return f"mp_rank_{rank[0]:02d}" + (f"_{rank[1]:03d}" if stages > 1 else "")


def is_megatron(directory: Path) -> bool:
    """Whether a directory is a checkpoint of Megatron's, or the folder of one of its iterations."""
    return (directory / TRACKER).is_file() or any(directory.glob("mp_rank_*/" + RANK_FILE))


def checkpoint_files(directory: Path) -> list[str]:
    """The files of all iterations in such a directory, relative to it, the one that names the latest first."""
    tracker = [TRACKER] if (directory / TRACKER).is_file() else []
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and _FOLDER.fullmatch(path.name))
    files = [path for folder in folders for path in sorted(folder.glob(f"mp_rank_*/{RANK_FILE}"))]
    return tracker + [path.relative_to(directory).as_posix() for path in files]


def iteration_folder(directory: Path) -> Path:
    """The folder of the latest iteration, or the directory itself if it is one.

    Raises:
        GLMError: the tracker names none, or one that is not there, or one of another format.
    """
    folder = _latest(directory) if (directory / TRACKER).is_file() else directory
    if (folder / ".metadata").exists() or (folder / "metadata.json").exists() or any(folder.glob("*.distcp")):
        raise GLMError(
            f"{folder} is of Megatron's torch_dist format (.distcp files), and only its torch format (mp_rank_*/"
            f"{RANK_FILE}) is read: save it again with --ckpt-format torch"
        )
    return folder


def _latest(directory: Path) -> Path:
    tracker = directory / TRACKER
    try:
        with tracker.open("rb") as file:
            said = file.read(_LARGEST_TRACKER).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GLMError(f"{tracker} cannot be read ({error}): write the number of an iteration into it") from error
    if said != _RELEASE and not (said.isascii() and said.isdigit()):
        raise GLMError(f"{tracker} says {said[:20]!r}, expected the number of an iteration or `release`: correct it")
    name = said if said == _RELEASE else folder_name(int(said))
    there = sorted(path.name for path in directory.iterdir() if path.is_dir() and _FOLDER.fullmatch(path.name))
    if name not in there:
        raise GLMError(
            f"{tracker} says {said}, and {name} is not there, only {', '.join(there) or 'no iteration'}: copy it "
            "there, or correct the file"
        )
    if len(there) > 1:
        logger.info("%s: reading %s of %s", directory, name, ", ".join(there))
    return directory / name


def rank_files(folder: Path) -> dict[Rank, Path]:
    """The file of every rank that is there.

    Raises:
        GLMError: none is, or they are those of expert parallelism.
    """
    found = {}
    for path in sorted(folder.glob("mp_rank_*")):
        match = _RANK.fullmatch(path.name)
        if not match or not (path / RANK_FILE).is_file():
            continue
        if match[3]:
            raise GLMError(f"{path} is a rank of expert parallelism, and GLM-4 models have no experts: take another")
        rank = int(match[1]), int(match[2] or 0)
        if rank in found:
            raise GLMError(f"{path} and {found[rank].parent.name} are both rank {rank}: remove the wrong one")
        found[rank] = path / RANK_FILE
    if not found:
        raise GLMError(f"{folder} holds no mp_rank_*/{RANK_FILE}: copy the folders of all ranks there")
    return found


@dataclass(frozen=True)
class RankFile:
    """What one rank wrote.

    Attributes:
        args: Megatron's command line, by the names of its fields.
        iteration: of the training, None where the file does not say.
        chunks: tensors by stored name, read-only views; several with virtual pipeline stages.
    """

    path: Path
    args: Mapping[str, Any]
    iteration: Any
    chunks: list[dict[str, np.ndarray]]
    mapping: mmap.mmap


def open_rank_file(path: Path) -> RankFile:
    """Open one; nothing in it is run, and no tensor is read.

    Raises:
        GLMError: damaged, or no checkpoint of Megatron-core.
    """
    view = map_file(path)
    file = open_torch(path, view, ANY_NAMES, any_storage)
    content = file.content if isinstance(file.content, dict) else {}
    args = content.get("args")
    args = args.values if isinstance(args, Fields) else args
    if not isinstance(args, dict):
        held = ", ".join(map(str, list(content)[:5])) or type(file.content).__name__
        raise GLMError(f"{path} holds {held}, and no args of Megatron's: take a file that Megatron-core has saved")
    models = [name for name in content if isinstance(name, str) and _CHUNK.fullmatch(name)]
    models.sort(key=lambda name: int(_CHUNK.fullmatch(name)[1] or 0))
    chunks = [_tensors(file, content[name]) for name in models]
    return RankFile(path, args, content.get("iteration"), chunks, view.obj)


def _tensors(file: Any, model: Any) -> dict[str, np.ndarray]:
    """Of one model; what Transformer Engine keeps beside the weights is left."""
    if not isinstance(model, dict) or "language_model" in model:
        raise GLMError(
            f"{file.path} is of Megatron's older models (language_model), not of Megatron-core: convert it with "
            "Megatron's own tools first, to --use-mcore-models"
        )
    held = {str(name): value for name, value in model.items() if not str(name).endswith("_extra_state")}
    if strange := [name for name, value in held.items() if isinstance(value, Unknown)]:
        raise GLMError(
            f"{file.path}: {strange[0]} is no tensor of torch's, expected float32, bfloat16 or float16 from torch or "
            "torch_npu (MindSpore's own are not read): save the checkpoint with one of them"
        )
    return {name: file.array(name, value) for name, value in held.items()}

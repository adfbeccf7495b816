"""Random numbers of a run: seeded alike where ranks share activations, apart where each has its own, and restored.

Dropout of whole activations must be the same on all ranks of a tensor-parallel group and different on replicas; that
of attention heads differs between all ranks (`Ranks.own_random_numbers`). PaddleNLP seeds and saves it so, one state
per process. Those states fit another run only where its processes have the same roles on the same devices.
"""

import random
from pathlib import Path

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker
from paddlenlp.trainer import TrainingArguments

from glm.distributed.tensor_parallel import LOCAL_SEED
from glm.files.atomic import write_json
from glm.files.json_files import read_json

LAYOUT_NAME = "random_layout.json"
_SHARED_SEED = "global_seed"


def forget() -> None:
    """Lets PaddleNLP seed a process's next run as its first: it leaves streams alone that are there already."""
    tracker = get_rng_state_tracker()
    tracker.seeds_ = set()
    for name in (_SHARED_SEED, LOCAL_SEED):
        tracker.states_.pop(name, None)


def seed_replica(args: TrainingArguments) -> None:
    """Under plain data parallelism PaddleNLP seeds all replicas alike, so that they drop the same elements."""
    if args.dataset_world_size > 1 and not args.use_hybrid_parallel:
        paddle.seed(args.seed + args.dataset_rank)


def layout(args: TrainingArguments) -> dict[str, int | str]:
    """What the saved states of a run belong to: how many processes, their roles, and the devices that Paddle sees."""
    device = paddle.get_device().split(":")[0]
    return {
        "processes": args.world_size,
        "tensor_parallel_degree": max(args.tensor_parallel_degree, 1),
        "sharding_parallel_degree": max(args.sharding_parallel_degree, 1),
        "expert_parallel_degree": max(args.expert_parallel_degree, 1),
        "device": device,
        "generators": len(paddle.get_rng_state()),
    }


def save_layout(directory: Path, args: TrainingArguments) -> None:
    """Writes the layout into a checkpoint."""
    write_json(directory / LAYOUT_NAME, layout(args), indent=None)


def difference(directory: Path, args: TrainingArguments) -> str | None:
    """How the run that wrote a checkpoint differs in its layout, None if it does not."""
    saved = {"expert_parallel_degree": 1} | read_json(directory / LAYOUT_NAME, missing={})  # older ones lack it
    differs = [
        f"{name} {saved.get(name)} → {value}" for name, value in layout(args).items() if saved.get(name) != value
    ]
    return ", ".join(differs) or None


def seed_from(args: TrainingArguments, step: int) -> None:
    """Fresh random numbers for a run that resumes where its saved states do not fit: by seed, step and role."""
    shared = [args.seed, step, args.dataset_rank]
    streams = {_SHARED_SEED: _number(*shared, 1), LOCAL_SEED: _number(*shared, 2, args.tensor_parallel_rank)}
    forget()
    for name, seed in streams.items():
        get_rng_state_tracker().add(name, seed)
    paddle.seed(_number(*shared, 0))
    np.random.seed(_number(*shared, 3))
    random.seed(_number(*shared, 4))


def _number(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])

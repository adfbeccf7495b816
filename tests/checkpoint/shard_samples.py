"""Checkpoints as several tensor-parallel ranks write them together."""

from glm.checkpoint import assign_weights, finish_shards, save_index, save_part, save_shard, save_state
from glm.distributed.plan import rank_part

INDEX = "model.safetensors.index.json"


def shard_names(degree):
    return [f"model_state.tp{rank:02d}.pdparams" for rank in range(degree)]


def part_names(parts):
    return [f"model-{part:05d}-of-{parts:05d}.safetensors" for part in range(1, parts + 1)]


def parts_of(state, degree):
    """Every rank's part, cut by the plan."""
    return [{n: rank_part(n, a, rank, degree) for n, a in state.items()} for rank in range(degree)]


def write_shards(directory, state, degree, config):
    for rank, part in enumerate(parts_of(state, degree)):
        path = save_shard(directory, part, config, rank=rank, degree=degree)
        assert path == directory / shard_names(degree)[rank]
    finish_shards(directory, degree=degree)


def write_parts(directory, state, parts, config):
    part_of = assign_weights({name: array.shape for name, array in state.items()}, config, parts)
    for part in range(parts):
        share = {name: array for name, array in state.items() if part_of[name] == part}
        assert save_part(directory, share, config, part=part, parts=parts) == directory / part_names(parts)[part]
    assert save_index(directory, config, parts=parts) == directory / INDEX


def write_whole(directory, state, _, config):
    save_state(directory, state, config)


WRITERS = {"whole": write_whole, "shards": write_shards, "parts": write_parts}

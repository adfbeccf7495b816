"""Ranks that outnumber the key/value heads hold copies of them in memory; files have none, at any degree."""

import numpy as np
import pytest
from checkpoint_samples import same_bits, tiny_config
from shard_samples import WRITERS

from glm.checkpoint import load_state, save_shard
from glm.checkpoint.files import MappedTensors, Safetensors
from glm.checkpoint.names import table_of
from glm.distributed.plan import local_shard, rank_part, shard_to_save, whole

HEADS, GROUPS, WIDTH, HIDDEN, INNER = 4, 2, 6, 16, 24
QUERIES, KEYS = HEADS * WIDTH, GROUPS * WIDTH
SHAPES = {
    "q_proj": (HIDDEN, QUERIES),
    "k_proj": (HIDDEN, KEYS),
    "v_proj": (HIDDEN, KEYS),
    "o_proj": (QUERIES, HIDDEN),
    "gate_proj": (HIDDEN, INNER),
    "up_proj": (HIDDEN, INNER),
    "down_proj": (INNER, HIDDEN),
    "embed_tokens": (21, HIDDEN),
    "lm_head": (HIDDEN, 21),
}
DEGREE, COPIES = 4, 2


def config_of(table: str):
    return tiny_config(
        checkpoint_table=table,
        vocab_size=21,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        tie_word_embeddings=False,
        attention_bias=True,
        post_norms=False,
    )


def random_state(config) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    state = {}
    for name in (name for row in table_of(config).expand(config) for name in row.memory):
        layer, part = name.split(".")[-2:]
        shape = SHAPES.get(layer, (HIDDEN,))
        state[name] = draw.standard_normal(shape if part == "weight" else shape[-1:], "float32")
    return state


def memory_of(state, rank: int) -> dict[str, np.ndarray]:
    """What a rank holds, by hand: its query heads, and the whole key/value head that they share."""
    part = {name: rank_part(name, array, rank, DEGREE) for name, array in state.items()}
    head = slice(rank // COPIES * WIDTH, (rank // COPIES + 1) * WIDTH)
    return part | {name: array[..., head] for name, array in state.items() if ".k_proj." in name or ".v_proj." in name}


def write(form: str, directory, state, degree: int, config) -> None:
    WRITERS[form](directory, state, degree, config)


@pytest.mark.parametrize("table", ["glm4", "glm4_remote"])
@pytest.mark.parametrize(("form", "written"), [("whole", 1), ("parts", 4), ("shards", 2), ("shards", 4)])
def test_a_rank_reads_its_part_and_its_head(tmp_path, monkeypatch, table, form, written):
    """Of every weight that is not read to compare files, no byte more."""
    config = config_of(table)
    state = random_state(config)
    write(form, tmp_path, state, written, config)
    for rank in range(DEGREE):
        wanted = memory_of(state, rank)
        with monkeypatch.context() as patch:
            sizes = counted_reads(patch)
            read = load_state(tmp_path, config, rank=rank, degree=DEGREE, kv_replicas=COPIES)
        assert same_bits(read, wanted)
        split = sum(array.nbytes for name, array in wanted.items() if "norm" not in name)
        padding = rank == DEGREE - 1 and 3 * HIDDEN * 4 * 2  # rows of zeros, which are in no file
        assert sum(sizes) == split - padding
    assert same_bits(load_state(tmp_path, config), state)


def counted_reads(patch) -> list[int]:
    """The bytes of each block that is read from now on; dtypes are asked of single numbers, and norms are whole."""
    sizes: list[int] = []
    for kind in (Safetensors, MappedTensors):
        patch.setattr(kind, "read", counting(kind.read, sizes))
    return sizes


def counting(read, sizes: list[int]):
    def counted(self, name, block):
        array = read(self, name, block)
        if "norm" not in name and array.size > 1:
            sizes.append(array.nbytes)
        return array

    return counted


@pytest.mark.parametrize("table", ["glm4", "glm4_remote"])
def test_ranks_with_copies_write_no_copies(tmp_path, table):
    config = config_of(table)
    state = random_state(config)
    for rank in range(DEGREE):
        part = {name: shard_to_save(name, array, rank, COPIES) for name, array in memory_of(state, rank).items()}
        save_shard(tmp_path, part, config, rank=rank, degree=DEGREE)
    assert same_bits(load_state(tmp_path, config), state)


@pytest.mark.parametrize(("degree", "copies"), [(1, 1), (2, 1), (4, 2), (8, 4)])
def test_parts_of_one_head_are_joined_once(degree, copies):
    name, array = "model.layers.0.self_attn.k_proj.bias", np.arange(16.0)
    parts = [rank_part(name, array, *local_shard(name, rank, degree, copies)) for rank in range(degree)]
    assert [len(part) for part in parts] == [16 // min(degree, 2)] * degree
    assert np.array_equal(whole(name, parts[::copies]), array)
    assert np.array_equal(np.concatenate([shard_to_save(name, p, r, copies) for r, p in enumerate(parts)]), array)

"""What tensor-parallel ranks write together reads back to the same bits at any degree; mixed files are refused."""

import json
import logging
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from checkpoint_samples import memory_shapes, random_state, same_bits, tiny_config
from safetensors.numpy import load_file, save_file
from shard_samples import INDEX, WRITERS, part_names, parts_of, shard_names

from glm.checkpoint import (
    assign_weights,
    check_state,
    finish_shards,
    from_memory,
    load_pdparams,
    load_state,
    remove_weights,
    save_index,
    save_part,
    save_shard,
    save_state,
)
from glm.checkpoint.names import table_of
from glm.errors import GLMError

# Neither 4 nor 2 divides the vocabulary.
CONFIG = tiny_config(vocab_size=21, num_attention_heads=4, hidden_size=16)


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def write(form, directory, state, degree, config=CONFIG):
    WRITERS[form](directory, state, degree, config)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize(
    ("form", "written"), [("whole", 1), ("shards", 2), ("shards", 4), ("parts", 1), ("parts", 2), ("parts", 4)]
)
def test_round_trips(tmp_path, form, written, degree, dtype):
    """Written by one, two or four ranks, read by as many, fewer or more; at degree 1 the parts are merged."""
    state = random_state(CONFIG, dtype)
    write(form, tmp_path, state, written)
    for rank, part in enumerate(parts_of(state, degree)):
        read = load_state(tmp_path, CONFIG, rank=rank, degree=degree)
        assert same_bits(read, part)
        assert all(array.flags.c_contiguous and array.flags.writeable for array in read.values())
    if degree == 1:
        check_state(read, memory_shapes(CONFIG), str(tmp_path))


@pytest.mark.parametrize("form", ["shards", "parts"])
def test_merging_and_cutting_again(tmp_path, form):
    """whole → shards → whole → shards: the same files, but for the order of a safetensors file's metadata."""
    write(form, tmp_path / "first", random_state(CONFIG, "bfloat16"), 4)
    merged = load_state(tmp_path / "first", CONFIG)
    assert same_bits(merged, random_state(CONFIG, "bfloat16"))
    write(form, tmp_path / "second", merged, 4)
    assert names_in(tmp_path / "first") == names_in(tmp_path / "second")
    for name in shard_names(4) if form == "shards" else [INDEX]:  # the index holds the parts' checksums
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_rank_with_nothing_but_padding(tmp_path):
    config = tiny_config(vocab_size=5, num_attention_heads=4)
    state = random_state(config)
    for form in WRITERS:
        write(form, tmp_path / form, state, 4, config)
        read = load_state(tmp_path / form, config, rank=3, degree=4)
        assert read["model.embed_tokens.weight"].tobytes() == np.zeros((2, 8), "float32").tobytes()
        assert same_bits(load_state(tmp_path / form, config), state)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_what_stands_in_the_padding_is_not_read(tmp_path, degree):
    state = random_state(CONFIG)
    for rank, part in enumerate(parts_of(state, 4)):
        rows = part["model.embed_tokens.weight"] = part["model.embed_tokens.weight"].copy()
        rows[max(21 - 6 * rank, 0) :] = 7
        save_shard(tmp_path, part, CONFIG, rank=rank, degree=4)
    for rank, part in enumerate(parts_of(state, degree)):
        assert same_bits(load_state(tmp_path, CONFIG, rank=rank, degree=degree), part)


def test_files_on_disk(tmp_path):
    """Shards hold what a rank holds, padding included; parts hold whole tensors, each once."""
    state = random_state(CONFIG)
    write("shards", tmp_path / "shards", state, 4)
    assert names_in(tmp_path / "shards") == shard_names(4)
    shard = load_pdparams(tmp_path / "shards" / "model_state.tp03.pdparams")
    assert shard["glm.word_embeddings.weight"].shape == (6, 16)
    assert shard["glm.transformer.layers.0.attention.query_key_value.weight"].shape == (16, 12)
    assert shard["glm.transformer.layers.0.mlp.dense_4h_to_h.weight"].shape == (16, 16)
    write("parts", tmp_path / "parts", state, 4)
    assert names_in(tmp_path / "parts") == [*part_names(4), INDEX]
    stored = [load_file(tmp_path / "parts" / name) for name in part_names(4)]
    assert sum(len(part) for part in stored) == 29
    assert same_bits({name: array for part in stored for name, array in part.items()}, from_memory(state, CONFIG))
    index = json.loads((tmp_path / "parts" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in state.values())
    assert index["weight_map"] == {name: part_names(4)[i] for i, part in enumerate(stored) for name in part}


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 40])
def test_sharing_out(parts):
    shapes = memory_shapes(CONFIG)
    part_of = assign_weights(shapes, CONFIG, parts)
    assert part_of == assign_weights(dict(reversed(shapes.items())), CONFIG, parts)
    assert part_of.keys() == shapes.keys()
    rows = table_of(CONFIG).expand(CONFIG)
    assert all(len({part_of[name] for name in row.memory}) == 1 for row in rows)
    sizes = [sum(np.prod(shapes[name]) for name in row.memory) for row in rows]
    loads = Counter(dict.fromkeys(range(parts), 0))
    for name, part in part_of.items():
        loads[part] += np.prod(shapes[name])
    assert max(loads.values()) - min(loads.values()) <= max(sizes)
    assert max(loads.values()) <= 1.1 * max(sum(sizes) / parts, max(sizes))


# files of different saves


@pytest.mark.parametrize("form", ["shards", "parts"])
@pytest.mark.parametrize("file", range(4))
def test_a_file_of_another_step(tmp_path, form, file):
    """The same run, the same names and shapes, other numbers."""
    name = (shard_names(4) if form == "shards" else part_names(4))[file]
    for step in (1, 2):
        write(form, tmp_path / str(step), random_state(CONFIG, seed=step), 4)
    shutil.copy(tmp_path / "2" / name, tmp_path / "1" / name)
    odd = name if file else "model_state.tp01.pdparams" if form == "shards" else name
    reason = r"differs from model_state.tp00" if form == "shards" else r"is not what model.safetensors.index.json was"
    with pytest.raises(GLMError, match=rf"1/{odd}\S* .*{reason}.* take them from one"):
        load_state(tmp_path / "1", CONFIG, rank=0, degree=4)


@pytest.mark.parametrize("form", ["shards", "parts"])
@pytest.mark.parametrize("degree", [1, 4])
def test_a_file_of_another_degree(tmp_path, form, degree):
    for written in (2, 4):
        write(form, tmp_path / str(written), random_state(CONFIG), written)
    names = {"shards": shard_names, "parts": part_names}[form]
    shutil.copy(tmp_path / "2" / names(2)[1], tmp_path / "4" / names(4)[1])
    reasons = {
        "shards": r"has glm.word_embeddings.weight \[11, 16\] float32, model_state.tp00.pdparams has it \[6, 16\]",
        "parts": r"(lacks glm\S+, which|holds glm\S+, which) model.safetensors.index.json places",
    }
    with pytest.raises(GLMError, match=rf"4/{names(4)[1]} {reasons[form]}"):
        load_state(tmp_path / "4", CONFIG, degree=degree)


def test_shards_of_another_dtype(tmp_path):
    for dtype in ("float32", "float16"):
        write("shards", tmp_path / dtype, random_state(CONFIG, dtype), 2)
    shutil.copy(tmp_path / "float16" / shard_names(2)[1], tmp_path / "float32")
    with pytest.raises(GLMError, match=r"tp01.pdparams has glm.word_embeddings.weight \[11, 16\] float16, model_state"):
        load_state(tmp_path / "float32", CONFIG)


def test_too_few_shards_of_one_degree(tmp_path):
    """Two of four, renamed or with a lost config.json: they agree, but are not the model."""
    write("shards", tmp_path, random_state(CONFIG), 4)
    for name in shard_names(4)[2:]:
        (tmp_path / name).unlink()
    with pytest.raises(GLMError, match=r"tp00.pdparams: \S+ has 6 rows, expected 11 with vocab_size 21 in 2 file"):
        load_state(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text('{"tensor_parallel_degree": 4}')
    with pytest.raises(GLMError, match=r"lacks model_state.tp02.pdparams, model_state.tp03.pdparams of 4"):
        load_state(tmp_path, CONFIG)


def test_shards_beyond_the_degree_of_the_config(tmp_path):
    write("shards", tmp_path, random_state(CONFIG), 4)
    (tmp_path / "config.json").write_text('{"tensor_parallel_degree": 2}')
    with pytest.raises(GLMError, match=r"holds model_state.tp03.pdparams, but its config.json says .*degree 2: remove"):
        load_state(tmp_path, CONFIG)


@pytest.mark.parametrize("file", range(4))
def test_a_missing_file(tmp_path, file):
    for form, name in (("shards", shard_names(4)[file]), ("parts", part_names(4)[file])):
        write(form, tmp_path / form, random_state(CONFIG), 4)
        (tmp_path / form / "config.json").write_text('{"tensor_parallel_degree": 4}')
        (tmp_path / form / name).unlink()
        with pytest.raises(GLMError, match=rf"lacks {name}"):
            load_state(tmp_path / form, CONFIG, rank=1, degree=2)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("file", range(4))
def test_a_truncated_file(tmp_path, file, share):
    """Every rank sees it before it reads anything, whichever file its own part lies in."""
    for form, name in (("shards", shard_names(4)[file]), ("parts", part_names(4)[file])):
        write(form, tmp_path / form, random_state(CONFIG), 4)
        path = tmp_path / form / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(GLMError, match=rf"{form}/{name} is (damaged or cut short|empty)"):
            load_state(tmp_path / form, CONFIG, rank=0, degree=4)


def test_a_whole_model_of_another_vocabulary(tmp_path):
    """25 and 28 rows need the same padding, so the shapes of the parts alone would fit."""
    save_state(tmp_path, random_state(tiny_config(vocab_size=25)), tiny_config(vocab_size=25))
    with pytest.raises(GLMError, match=r"model.safetensors: glm.word_embeddings.weight has 25 rows, expected 28"):
        load_state(tmp_path, tiny_config(vocab_size=28), rank=1, degree=4)


# saving over an older save


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("shards", 4), ("shards", 2)),
        (("shards", 2), ("shards", 4)),
        (("parts", 4), ("parts", 2)),
        (("parts", 2), ("whole", 1)),
        (("whole", 1), ("parts", 2)),
        (("shards", 2), ("parts", 2)),
    ],
)
def test_a_save_replaces_the_older_one(tmp_path, caplog, first, second):
    for seed, (form, degree) in enumerate((first, second)):
        write(form, tmp_path / "both", random_state(CONFIG, seed=seed), degree)
    form, degree = second
    write(form, tmp_path / "alone", random_state(CONFIG, seed=1), degree)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert same_bits(load_state(tmp_path / "both", CONFIG), random_state(CONFIG, seed=1))
    other_format = first[0] == "shards" != form
    assert other_format or names_in(tmp_path / "both") == names_in(tmp_path / "alone")
    assert ("not model_state.tp00.pdparams" in caplog.text) == other_format


def test_a_whole_pdparams_file_and_shards_replace_each_other(tmp_path):
    save_state(tmp_path, random_state(CONFIG), CONFIG, weight_format="pdparams")
    write("shards", tmp_path, random_state(CONFIG, seed=1), 2)
    assert names_in(tmp_path) == shard_names(2)
    save_state(tmp_path, random_state(CONFIG, seed=2), CONFIG, weight_format="pdparams")
    assert names_in(tmp_path) == ["model_state.pdparams"]
    assert same_bits(load_state(tmp_path, CONFIG), random_state(CONFIG, seed=2))


def test_a_foreign_format_is_not_removed_but_refused(tmp_path):
    write("parts", tmp_path, random_state(CONFIG), 2)
    before = names_in(tmp_path)
    part = parts_of(random_state(CONFIG), 2)[0]
    with pytest.raises(GLMError, match=r"already holds model.safetensors.index.json, which is read in preference"):
        save_shard(tmp_path, part, CONFIG, rank=0, degree=2)
    assert names_in(tmp_path) == before
    remove_weights(tmp_path, "safetensors")
    save_shard(tmp_path, part, CONFIG, rank=0, degree=2)
    assert names_in(tmp_path) == shard_names(1)


def test_an_unfinished_save_of_parts_is_not_read(tmp_path):
    """One of two ranks has written over the save of another step, then the job was killed."""
    write("parts", tmp_path, random_state(CONFIG), 2)
    later = random_state(CONFIG, seed=1)
    part_of = assign_weights(memory_shapes(CONFIG), CONFIG, 2)
    save_part(tmp_path, {n: a for n, a in later.items() if part_of[n] == 1}, CONFIG, part=1, parts=2)
    with pytest.raises(GLMError, match=rf"holds {part_names(2)[0]}, but no index .*: the save was not finished"):
        load_state(tmp_path, CONFIG)
    save_state(tmp_path / "whole", random_state(CONFIG), CONFIG)
    save_part(tmp_path / "whole", {n: a for n, a in later.items() if part_of[n] == 1}, CONFIG, part=1, parts=2)
    assert same_bits(load_state(tmp_path / "whole", CONFIG), random_state(CONFIG))


def test_an_unfinished_save_of_shards_is_not_read(tmp_path):
    for degree in (4, 2):
        write("shards", tmp_path / str(degree), random_state(CONFIG), degree)
        save_shard(tmp_path / str(degree), parts_of(random_state(CONFIG, seed=1), 2)[1], CONFIG, rank=1, degree=2)
        with pytest.raises(GLMError, match=rf"{degree}/model_state.tp01.pdparams.* take them from one"):
            load_state(tmp_path / str(degree), CONFIG)


def test_saves_that_are_not_complete(tmp_path):
    state = random_state(CONFIG)
    write("shards", tmp_path, state, 4)
    with pytest.raises(GLMError, match=r"lacks model_state.tp04.pdparams, \S+ \S+ \S+ of 8 files: not every rank has"):
        finish_shards(tmp_path, degree=8)
    assert names_in(tmp_path) == shard_names(4)
    save_part(tmp_path, {"model.norm.bias": state["model.norm.bias"]}, CONFIG, part=0, parts=2)
    with pytest.raises(GLMError, match=rf"lacks {part_names(2)[1]} of 2 files"):
        save_index(tmp_path, CONFIG, parts=2)
    save_part(tmp_path, {n: a for n, a in state.items() if "embed" in n or "bias" in n}, CONFIG, part=1, parts=2)
    lacking = "glm.transformer.final_layernorm.weight, glm.transformer.layers.0.attention.dense.weight"
    twice = "have twice glm.transformer.final_layernorm.bias: every rank must write what assign_weights says"
    with pytest.raises(GLMError, match=rf"the 2 parts in \S+ lack {lacking}, .* and {twice}"):
        save_index(tmp_path, CONFIG, parts=2)
    assert not (tmp_path / INDEX).exists()
    with pytest.raises(GLMError, match=r"lacks model.layers.0.self_attn.k_proj.weight, \S+v_proj.weight: pass"):
        name = "model.layers.0.self_attn.q_proj.weight"
        save_part(tmp_path, {name: state[name]}, CONFIG, part=0, parts=2)
    for rank, degree in ((0, 1), (2, 2), (-1, 2)):
        with pytest.raises(GLMError, match=rf"rank {rank} of {degree} has no tensor-parallel file"):
            save_shard(tmp_path, state, CONFIG, rank=rank, degree=degree)


def test_parts_of_others_have_no_digest(tmp_path):
    """Hugging Face's index says nothing of the contents; its total_size is often wrong and not compared."""
    stored = from_memory(random_state(CONFIG), CONFIG)
    names = sorted(stored)
    weight_map = {}
    for file, share in zip(part_names(2), (names[::2], names[1::2]), strict=True):
        save_file({name: stored[name] for name in share}, tmp_path / file, {"format": "np"})
        weight_map |= dict.fromkeys(share, file)
    for metadata in ({}, {"total_size": 7}, None):
        (tmp_path / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
        assert same_bits(load_state(tmp_path, CONFIG), random_state(CONFIG))
    save_file({name: stored[name] for name in names[1:]}, tmp_path / part_names(2)[1], {"format": "np"})
    with pytest.raises(GLMError, match=re.escape(f"holds {names[2]}, which {INDEX} places in {part_names(2)[0]}")):
        load_state(tmp_path, CONFIG)

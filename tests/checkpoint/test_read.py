"""One model written in every format reads back to the same bits; what does not fit is named."""

import json
import logging
import pickle
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from attack import Attack
from checkpoint_samples import memory_shapes, random_state, same_bits, tiny_config, write_torch_bin
from format_samples import (
    CONFIG,
    FORMATS,
    QKV,
    contiguous,
    safetensors,
    safetensors_index,
    without_index,
    write_pdparams,
    write_shards,
)
from safetensors import safe_open
from safetensors.numpy import save_file

from glm.checkpoint import check_state, files, from_memory, load_state, open_checkpoint, read
from glm.errors import GLMError


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_reads_to_the_same_bits(tmp_path, form, dtype):
    state = random_state(CONFIG, dtype)
    FORMATS[form](tmp_path, state)
    read = load_state(tmp_path, CONFIG)
    assert same_bits(read, state)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in read.values())
    check_state(read, memory_shapes(CONFIG), str(tmp_path))


@pytest.mark.parametrize("form", ["safetensors np", "torch bin", "torch before 1.6", "torch without index", "2 ranks"])
def test_slices_for_tensor_parallel_ranks(tmp_path, form):
    """Joined again, the slices are the model; what is not split is whole on every rank."""
    state = random_state(CONFIG)
    FORMATS[form](tmp_path, state)
    ranks = [load_state(tmp_path, CONFIG, rank=rank, degree=4) for rank in range(4)]
    axes = {"q_proj": 1, "k_proj": 1, "v_proj": 1, "up_proj": 1, "o_proj": 0, "down_proj": 0, "embed_tokens": 0}
    for name, array in state.items():
        module, kind = name.split(".")[-2:]
        if module in axes and (kind == "weight" or axes[module] == 1):
            axis = axes[module] if kind == "weight" else 0
            assert np.array_equal(np.concatenate([part[name] for part in ranks], axis), array)
            assert ranks[3][name].shape[axis] == array.shape[axis] // 4
        else:
            assert all(np.array_equal(part[name], array) for part in ranks)
    assert all(array.flags.c_contiguous and array.flags.owndata for array in ranks[1].values())
    with pytest.raises(
        GLMError, match=r"q_proj.weight has 8 columns, which 3 tensor-parallel ranks cannot .* divides 8"
    ):
        load_state(tmp_path, CONFIG, degree=3)


def test_results_share_no_memory(tmp_path):
    FORMATS["torch bin"](tmp_path, random_state(CONFIG))
    read = load_state(tmp_path, CONFIG)
    for array in read.values():
        array[...] = 0
    assert same_bits(load_state(tmp_path, CONFIG), random_state(CONFIG))


class CountingFile:
    """A safetensors file that notes how many numbers of which tensor are read."""

    def __init__(self, path, framework):
        self.file = safe_open(path, framework)

    def get_slice(self, name):
        return CountingSlice(name, self.file.get_slice(name))

    def __getattr__(self, name):
        return getattr(self.file, name)


class CountingSlice:
    def __init__(self, name, tensor):
        self.name, self.tensor = name, tensor

    def __getitem__(self, block):
        array = self.tensor[block]
        NUMBERS[self.name] += array.size if array.size > 1 else 0  # one number is read to learn the type
        return array

    def __getattr__(self, name):
        return getattr(self.tensor, name)


NUMBERS: Counter[str] = Counter()


@pytest.fixture
def numbers(monkeypatch):
    """How many numbers of every stored tensor were read."""
    monkeypatch.setattr(files, "safe_open", CountingFile)
    NUMBERS.clear()
    return NUMBERS


@pytest.mark.parametrize("form", ["safetensors np", "safetensors index"])
def test_tensors_are_read_when_asked_for_and_once(tmp_path, numbers, form):
    state = random_state(CONFIG)
    FORMATS[form](tmp_path, state)
    tensors = open_checkpoint(tmp_path).tensors(CONFIG)
    next(tensors)
    assert numbers == {"glm.word_embeddings.weight": 160}
    list(tensors)
    assert numbers == {name: array.size for name, array in from_memory(state, CONFIG).items()}


@pytest.mark.parametrize("form", ["safetensors np", "safetensors index"])
def test_a_rank_reads_its_own_part_only(tmp_path, numbers, form):
    FORMATS[form](tmp_path, random_state(CONFIG))
    part = load_state(tmp_path, CONFIG, rank=1, degree=4)
    assert numbers.total() == sum(array.size for array in part.values())
    assert numbers[f"glm.{QKV}"] == 3 * 8 * 8 / 4


def test_preference_is_logged(tmp_path, caplog):
    state, other = random_state(CONFIG), random_state(CONFIG, seed=1)
    FORMATS["safetensors np"](tmp_path, state)
    for form in ("torch bin", "pdparams", "2 ranks"):
        FORMATS[form](tmp_path, other)
    with caplog.at_level(logging.WARNING):
        assert same_bits(load_state(tmp_path, CONFIG), state)
    others = "pytorch_model.bin, model_state.pdparams, model_state.tp00.pdparams"
    assert f"reading model.safetensors, not {others}" in caplog.text


ORDER = ["safetensors index", "safetensors np", "torch index", "torch bin", "pdparams index", "pdparams", "2 ranks"]


@pytest.mark.parametrize(("first", "second"), pairwise(ORDER))
def test_preference_order(tmp_path, first, second):
    FORMATS[second](tmp_path, random_state(CONFIG, seed=1))
    FORMATS[first](tmp_path, random_state(CONFIG))
    assert same_bits(load_state(tmp_path, CONFIG), random_state(CONFIG))


@pytest.mark.parametrize(("label", "layout"), [("np", True), ("pt", False)])
def test_shapes_overrule_a_wrong_label(tmp_path, caplog, label, layout):
    safetensors({"format": label}, layout)(tmp_path, random_state(CONFIG))
    with caplog.at_level(logging.WARNING):
        assert same_bits(load_state(tmp_path, CONFIG), random_state(CONFIG))
    assert "but its weights lie" in caplog.text


def test_ignored_and_tied_extras(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "_COPY_ROWS", 8)  # of 20
    state = random_state(CONFIG)
    extras = {"lm_head.weight": state["model.embed_tokens.weight"], "glm.rotary.inv_freq": np.ones(3, "float32")}
    save_file(contiguous(from_memory(state, CONFIG)) | extras, tmp_path / "model.safetensors", {"format": "np"})
    assert same_bits(load_state(tmp_path, CONFIG), state)
    extras["lm_head.weight"] = extras["lm_head.weight"].copy()
    extras["lm_head.weight"][-1, -1] += 1
    save_file(contiguous(from_memory(state, CONFIG)) | extras, tmp_path / "model.safetensors", {"format": "np"})
    with pytest.raises(
        GLMError, match=r"lm_head.weight differs from glm.word_embeddings.weight, but tie_word_embeddings"
    ):
        load_state(tmp_path, CONFIG)
    untied = load_state(tmp_path, tiny_config(tie_word_embeddings=False))
    assert untied.keys() - state.keys() == {"lm_head.weight"}


def test_missing_unexpected_and_misshapen_weights_are_named(tmp_path):
    state = random_state(CONFIG)
    arrays = contiguous(from_memory(state, CONFIG))
    arrays["glm.transformer.strange"] = np.ones((2, 3), "float32")
    del arrays["glm.transformer.final_layernorm.bias"]
    arrays["glm.word_embeddings.weight"] = arrays["glm.word_embeddings.weight"][:-1].copy()
    save_file(arrays, tmp_path / "model.safetensors", {"format": "np"})
    with pytest.raises(GLMError) as caught:
        check_state(load_state(tmp_path, CONFIG), memory_shapes(CONFIG), "model.safetensors")
    message = str(caught.value)
    assert "1 missing: model.norm.bias [8]" in message
    assert "1 unexpected: glm.transformer.strange [2, 3]" in message
    assert "1 of the wrong shape: model.embed_tokens.weight [19, 8] instead of [20, 8]" in message
    have = sum(a.size for a in arrays.values())
    assert f"it holds {have:,} parameters, the model has {sum(a.size for a in state.values()):,}" in message
    assert "\n" not in message


def test_a_bigger_model_than_configured(tmp_path):
    """The "10B" that silently trained as another model: both counts and the shapes."""
    state = random_state(tiny_config(num_hidden_layers=3))
    with pytest.raises(
        GLMError, match=r"16 unexpected: .* and 11 more; it holds 2,904 parameters, the model has 2,032"
    ):
        check_state(state, memory_shapes(CONFIG), "x")
    check_state(state, memory_shapes(tiny_config(num_hidden_layers=3)), "x")


def test_no_weights_or_no_directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        GLMError, match=r"holds no weights: found config.json; give a directory with one of model.safeten"
    ):
        load_state(tmp_path, CONFIG)
    with pytest.raises(GLMError, match="is not a directory"):
        load_state(tmp_path / "none", CONFIG)


@pytest.mark.parametrize(
    ("keep", "missing"),
    [((0, 2, 3), "tp01"), ((1, 2, 3), "tp00"), ((0,), "tp01"), ((0, 3), "tp01.pdparams, model_state.tp02")],
)
def test_a_missing_shard_is_named(tmp_path, keep, missing):
    for rank in keep:
        write_pdparams(tmp_path / f"model_state.tp{rank:02d}.pdparams", {"w": np.zeros(2)})
    with pytest.raises(GLMError, match=rf"lacks model_state.{missing}"):
        load_state(tmp_path, CONFIG)


def test_a_missing_last_shard_is_known_from_the_config(tmp_path):
    write_shards(tmp_path, random_state(CONFIG), 2)
    (tmp_path / "config.json").write_text('{"tensor_parallel_degree": 4}')
    with pytest.raises(GLMError, match=r"lacks model_state.tp02.pdparams, model_state.tp03.pdparams of 4"):
        load_state(tmp_path, CONFIG)


def test_ranks_that_contradict_each_other(tmp_path):
    write_shards(tmp_path, random_state(CONFIG), 2)
    shutil.copy(tmp_path / "model_state.tp01.pdparams", tmp_path / "good")
    (tmp_path / "later").mkdir()
    write_shards(tmp_path / "later", random_state(CONFIG, seed=1), 2)
    shutil.copy(tmp_path / "later" / "model_state.tp01.pdparams", tmp_path)
    with pytest.raises(GLMError, match=r"tp01.pdparams: \S+position_embeddings.weight differs from model_state.tp00"):
        load_state(tmp_path, CONFIG)
    content = pickle.loads((tmp_path / "good").read_bytes())
    del content[f"glm.{QKV}"]
    write_pdparams(tmp_path / "model_state.tp01.pdparams", content)
    with pytest.raises(GLMError, match=rf"tp01.pdparams: only one of it and model_state.tp00.pdparams holds glm.{QKV}"):
        load_state(tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["model_state.pdparams", "model_state.tp01.pdparams", "pytorch_model.bin"])
def test_attacks_are_refused_while_loading(tmp_path, name):
    marker = tmp_path / "marker"
    if name.endswith("bin"):
        write_torch_bin(tmp_path / name, {}, extra={"w": Attack(marker)})
    else:
        write_shards(tmp_path, random_state(CONFIG), 2)
        (tmp_path / name).write_bytes(pickle.dumps({"w": Attack(marker)}))
    with pytest.raises(GLMError, match=rf"{name} is refused"):
        load_state(tmp_path, CONFIG)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["safetensors np", "pdparams", "torch bin", "2 ranks"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_cut_files(tmp_path, form, share):
    FORMATS[form](tmp_path, random_state(CONFIG))
    path = max(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(GLMError, match=rf"{path.name} is (damaged or cut short|empty)"):
        load_state(tmp_path, CONFIG)


def test_incomplete_and_odd_indexes(tmp_path):
    FORMATS["safetensors index"](tmp_path, random_state(CONFIG))
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "aside")
    with pytest.raises(
        GLMError, match=r"lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names"
    ):
        load_state(tmp_path, CONFIG)
    (tmp_path / "aside").rename(tmp_path / "model-00002-of-00002.safetensors")
    index.write_text(json.dumps({"weight_map": content["weight_map"] | {"ghost": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(GLMError, match=r"00001-of-00002.safetensors lacks ghost"):
        load_state(tmp_path, CONFIG)
    for odd in ("../model.safetensors", "model.safetensors.index.json", "/etc/passwd", 7):
        index.write_text(json.dumps({"weight_map": {"w": odd}}))
        with pytest.raises(GLMError, match=r"expected .safetensors files of its own directory"):
            load_state(tmp_path, CONFIG)
    index.write_text("")
    with pytest.raises(GLMError, match=r"index.json is empty: copy or download it again"):
        load_state(tmp_path, CONFIG)
    for broken in ("[]", "{}", '{"weight_map": 3}'):
        index.write_text(broken)
        with pytest.raises(GLMError, match=r"index.json is damaged"):
            load_state(tmp_path, CONFIG)


@pytest.mark.parametrize("form", ["safetensors index", "torch index", "pdparams index"])
def test_parts_without_their_index(tmp_path, form, caplog):
    """All parts say what they hold; of one that is missing, its name and the index's are said."""
    state = random_state(CONFIG)
    without_index(FORMATS[form])(tmp_path, state)
    assert same_bits(load_state(tmp_path, CONFIG), state)
    name = {"s": "model.safetensors", "t": "pytorch_model.bin", "p": "model_state.pdparams"}[form[0]]
    assert f"{name}.index.json is missing, reading all 2 parts without it" in caplog.text
    first, second = sorted(tmp_path.iterdir())
    second.rename(tmp_path / "aside")
    with pytest.raises(
        GLMError, match=rf"holds {first.name}, but neither {name}.index.json nor {second.name}: download"
    ):
        load_state(tmp_path, CONFIG)
    (tmp_path / "aside").rename(second)
    (tmp_path / first.name.replace("00002", "00003")).write_bytes(first.read_bytes())
    with pytest.raises(GLMError, match=rf"neither {name}.index.json nor"):
        load_state(tmp_path, CONFIG)


def test_parts_that_overlap_need_their_index(tmp_path):
    safetensors_index(tmp_path, random_state(CONFIG))
    first, second, index = sorted(tmp_path.iterdir())
    index.unlink()
    second.write_bytes(first.read_bytes())
    with pytest.raises(GLMError, match=r"both hold .*, and model.safetensors.index.json is missing: download it"):
        load_state(tmp_path, CONFIG)

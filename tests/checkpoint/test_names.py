"""The name tables: every weight once, and what packs unpacks to the same bits."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoint_samples import memory_shapes, random_state, same_bits, tiny_config

from glm.checkpoint import TABLES, Packing, TensorEntry, from_memory
from glm.checkpoint.files import MappedTensors
from glm.checkpoint.names import match_rows, table_of
from glm.checkpoint.packing import FUSED_QKV, QKV_PER_HEAD, unpack_blocks
from glm.checkpoint.slices import read_row
from glm.distributed.plan import rank_part
from glm.errors import GLMError

CONFIG = tiny_config()
HEADS = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)
GROUPED = Packing(("num_attention_heads", "num_key_value_heads", "num_key_value_heads"))


def test_the_room_needs_no_paddle_and_no_torch():
    code = "import sys, glm.checkpoint; print(sorted({'paddle', 'paddlenlp', 'torch'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"


def test_the_glm_table_names_every_weight_once():
    names = [name for row in TABLES["glm"].expand(CONFIG) for name in row.memory]
    assert len(names) == len(set(names))
    assert set(names) == set(memory_shapes(CONFIG))


def test_stored_shapes_are_those_of_the_published_model():
    """Spelled out from PaddleNLP's GLM: fused q|k|v, biases beside weights."""
    stored = from_memory(random_state(CONFIG), CONFIG)
    assert stored["glm.word_embeddings.weight"].shape == (20, 8)
    assert stored["glm.transformer.layers.1.attention.query_key_value.weight"].shape == (8, 24)
    assert stored["glm.transformer.layers.1.attention.query_key_value.bias"].shape == (24,)
    assert stored["glm.transformer.layers.0.mlp.dense_4h_to_h.weight"].shape == (32, 8)
    assert len(stored) == 5 + 2 * 12


def test_fused_parts_lie_in_the_order_q_k_v():
    state = random_state(CONFIG)
    fused = from_memory(state, CONFIG)["glm.transformer.layers.0.attention.query_key_value.weight"]
    parts = [state[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert np.array_equal(fused, np.concatenate(parts, axis=1))


def read_rows(stored, torch_layout=False, **rank):
    file = MappedTensors(Path("file"), stored, torch_layout)
    for row in match_rows(stored, CONFIG, "file"):
        yield from read_row(row, [file], CONFIG, torch_layout=torch_layout, **{"rank": 0, "degree": 1} | rank)


@pytest.mark.parametrize("torch_layout", [False, True])
def test_reading_undoes_writing(torch_layout):
    state = random_state(CONFIG)
    stored = from_memory(state, CONFIG, torch_layout=torch_layout)
    assert same_bits(dict(read_rows(stored, torch_layout)), state)


def test_torch_layout_transposes_matrices_only():
    state = random_state(CONFIG)
    paddle, torch = from_memory(state, CONFIG), from_memory(state, CONFIG, torch_layout=True)
    different = {name for name in paddle if paddle[name].tobytes() != torch[name].tobytes()}
    linears = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
    assert different == {name for name in paddle if name.endswith(linears)}


@pytest.mark.parametrize(
    ("packing", "order"),
    [
        (Packing((1, 1, 1)), "q0 q1 q2 q3 k0 k1 k2 k3 v0 v1 v2 v3"),
        (Packing((1, 1, 1), groups="num_attention_heads"), "q0 k0 v0 q1 k1 v1 q2 k2 v2 q3 k3 v3"),
        (GROUPED, "q0 q1 q2 q3 k0 k1 v0 v1"),
        (Packing((2, 1, 1), groups="num_key_value_heads"), "q0 q1 k0 v0 q2 q3 k1 v1"),
        (Packing((1, 1)), "g0 g1 u0 u1"),
    ],
)
@pytest.mark.parametrize("lead", [(), (5,)])
def test_packings(packing, order, lead):
    """Each label stands for one head's two columns; the drawn order is the order on disk."""
    blocks = order.split()
    codes = {label: 10 * index for index, label in enumerate(sorted(blocks))}
    stored = (
        np.array([codes[label] + column for label in blocks for column in (0, 1)]) + np.zeros((*lead, 1), int)[..., :1]
    )
    widths, groups = packing.widths(stored.shape[-1], HEADS)
    assert sum(widths) * groups == stored.shape[-1]
    parts = unpack_blocks(stored, widths)
    for part, letter in zip(parts, dict.fromkeys(label[0] for label in blocks), strict=True):
        wanted = [codes[label] + column for label in sorted(blocks) if label[0] == letter for column in (0, 1)]
        assert np.array_equal(part, np.broadcast_to(wanted, part.shape))
    assert np.array_equal(packing.pack(parts, HEADS), stored)


def test_a_width_that_does_not_divide():
    stored = from_memory(random_state(CONFIG), CONFIG)
    name = "glm.transformer.layers.0.attention.query_key_value.weight"
    stored[name] = stored[name][:, :-1]
    with pytest.raises(GLMError, match=rf"file: {name} \[8, 23\] cannot be cut into 3 weights"):
        list(read_rows(stored))


def test_an_incomplete_or_foreign_state_is_not_written():
    state = random_state(CONFIG)
    state["lora_A"] = state.pop("model.norm.bias")
    with pytest.raises(GLMError, match=r"lacks model.norm.bias and has lora_A: pass the state of the whole model"):
        from_memory(state, CONFIG)


def test_unknown_table_and_foreign_names():
    with pytest.raises(
        GLMError,
        match="no checkpoint table is called 'gpt': choose one of chatglm, glm, glm4, glm4_moe, glm4_moe_lite, ",
    ):
        table_of(tiny_config(checkpoint_table="gpt"))
    with pytest.raises(
        GLMError, match=r"it has transformer.wte.weight, expected names like glm.word_embeddings.weight"
    ):
        match_rows(["transformer.wte.weight"], CONFIG, "model.safetensors")


@pytest.mark.parametrize(
    ("packing", "degrees"), [(QKV_PER_HEAD, (1, 2, 4, 8)), (GROUPED, (1, 2)), (FUSED_QKV, (1, 2, 4, 8))]
)
@pytest.mark.parametrize("torch_layout", [False, True])
def test_ranges_of_packed_weights(packing, degrees, torch_layout):
    """A rank's ranges of a whole file, whatever the packing; ranks may share a group."""
    names = tuple(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv")
    row = TensorEntry("fused", names, linear=True, packing=packing)
    widths = [8, 4, 4] if packing is GROUPED else [8, 8, 8]
    draw = np.random.default_rng(0)
    state = {name: draw.standard_normal((6, width), "float32") for name, width in zip(names, widths, strict=True)}
    fused = packing.pack(list(state.values()), HEADS)
    file = MappedTensors(Path("file"), {"fused": fused.T if torch_layout else fused}, torch_layout)
    for degree in degrees:
        for rank in range(degree):
            read = dict(read_row(row, [file], HEADS, torch_layout=torch_layout, rank=rank, degree=degree))
            assert same_bits(read, {name: rank_part(name, array, rank, degree) for name, array in state.items()})

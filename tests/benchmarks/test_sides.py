"""This project's sides and PaddleNLP's open the same weights and compute the same thing."""

import time
from dataclasses import replace

import numpy as np
import paddle
import pytest

import glm  # noqa: F401
from benchmarks.made_weights import made_tensors, write_shards
from benchmarks.prepare import HUGGING_FACE, MODEL, TRAINING, config_of, prepare
from benchmarks.settings import LORA_RANK, QUICK_SHAPES, SIDES, TASKS
from benchmarks.side import Place
from benchmarks.sides import eager, loop, onnx, paddlenlp
from benchmarks.sides.training import operator, own_times, paddle_operators
from benchmarks.start import peak_memory, since_start, start_onnx
from benchmarks.stored_tensors import stored_tensors
from benchmarks.worker import Measured
from glm.checkpoint.read import open_checkpoint

pytestmark = pytest.mark.long

MODULES = {"eager": eager, "loop": loop, "onnx-fp32": onnx, "onnx-int4": onnx, "paddlenlp": paddlenlp}
OPENED = {
    "glm4": ["onnx-fp32", "onnx-int4", "eager", "loop", "transformers"],
    "glm": ["onnx-fp32", "eager", "paddlenlp"],
}
PATIENCE = 60.0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    return {
        name: (directory / name, prepare(directory / name, QUICK_SHAPES[name], sides)) for name, sides in OPENED.items()
    }


@pytest.fixture(scope="module")
def open_side(prepared):
    def opened(shape: str, side: str):
        return MODULES[side].Side(Place(prepared[shape][0], QUICK_SHAPES[shape], SIDES[side]))

    return opened


def test_batches_have_the_announced_size(prepared):
    for name, (directory, _) in prepared.items():
        shape = QUICK_SHAPES[name]
        arrays = np.load(directory / TRAINING)
        assert arrays["input_ids"].shape == (shape.train_batch, shape.train_source + shape.train_target)
        assert (arrays["labels"] >= 0).sum(axis=1).tolist() == [shape.train_target] * shape.train_batch
        prompts = np.load(directory / "inputs.npz")["prompts"]
        assert prompts.shape[1] == shape.prompt and len(prompts) >= 2


def test_parameters_are_counted_by_what_they_do(prepared):
    work = prepared["glm"][1]
    hidden, layers, vocab, positions = 128, 4, 384, 1025
    block = 12 * hidden**2 + 13 * hidden
    assert work["block_parameters"] == layers * block
    assert work["head_parameters"] == vocab * hidden
    assert work["parameters"] == layers * block + vocab * hidden + 2 * positions * hidden + 2 * hidden
    # The GLM-4 shape has a head of its own beside the embedding.
    work = prepared["glm4"][1]
    assert work["parameters"] == work["block_parameters"] + 2 * 320 * hidden + hidden


def test_the_peers_file_has_the_weights_of_the_model(prepared):
    directory = prepared["glm4"][0]
    config = config_of(QUICK_SHAPES["glm4"])
    ours, theirs = (dict(open_checkpoint(directory / name).tensors(config)) for name in (MODEL, HUGGING_FACE))
    assert ours.keys() == theirs.keys() and len(ours) > 20
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_large_shape_is_exported_without_a_model(tmp_path):
    """The export opens what was written in shards, and the checkpoint is what transformers would open."""
    shape = QUICK_SHAPES["glm4-9b"]
    work = prepare(tmp_path, shape, ["onnx-int4", "llama-q4_0", "machine"])
    assert not (tmp_path / MODEL).exists() and work["head_parameters"] == 320 * 128
    side = onnx.Side(Place(tmp_path, shape, SIDES["onnx-int4"]))
    assert len(side.generate(TASKS["decode"], PATIENCE).tokens[0]) == shape.new_tokens
    assert len(side.generate(TASKS["prefill-long"], PATIENCE).tokens[0]) == 1
    stored, config = stored_tensors(tmp_path / HUGGING_FACE), config_of(shape)
    assert {array.dtype.str for array in stored.values()} == {"<u2"}
    gate_up = stored["model.layers.1.mlp.gate_up_proj.weight"]
    assert gate_up.shape == (2 * config.intermediate_size, config.hidden_size)
    assert sum(array.size for array in stored.values()) == work["parameters"]


def test_shards_hold_no_more_than_they_may(tmp_path):
    made = made_tensors(config_of(QUICK_SHAPES["glm4-9b"]))
    most = max(tensor.nbytes for tensor in made)
    write_shards(tmp_path, made, most)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2 and all(file.stat().st_size < most + 4096 for file in files)
    assert len(stored_tensors(tmp_path)) == len(made)


@pytest.mark.parametrize("task", ["prefill", "decode", "decode-8"])
def test_greedy_tokens_of_our_sides_agree_and_depend_on_the_prompt(open_side, task):
    found = [open_side("glm4", side).generate(TASKS[task], PATIENCE) for side in ("onnx-fp32", "eager", "loop")]
    for generation in found:
        assert generation.tokens == found[0].tokens
        assert generation.marks[0][0] == 1 and generation.marks[-1][0] == len(generation.tokens[0])
        assert [seconds for _, seconds in generation.marks] == sorted(seconds for _, seconds in generation.marks)
    if task == "decode-8":
        assert len({tuple(row) for row in found[0].tokens}) > 1 and len(set(found[0].tokens[0])) > 1


def test_the_long_prompt_is_long(open_side):
    side = open_side("glm4", "onnx-int4")
    assert len(side.generate(TASKS["prefill-long"], PATIENCE).tokens[0]) == 1
    assert onnx.prompts_of(side.directory, TASKS["prefill-long"]).shape == (1, QUICK_SHAPES["glm4"].long_prompt)


# Without the rule against repeats: PaddleNLP's counts the prompt, and has no effect where strides are off.
@pytest.mark.parametrize("task", [TASKS["greedy-2"], replace(TASKS["beam-2"], no_repeat=0)], ids=["greedy", "beam"])
def test_paddlenlp_writes_our_tokens(open_side, task):
    ours, eagerly, theirs = (
        open_side("glm", side).generate(task, PATIENCE).tokens for side in ("onnx-fp32", "eager", "paddlenlp")
    )
    assert ours == eagerly == theirs
    assert [len(row) for row in ours] == [QUICK_SHAPES["glm"].new_tokens] * 2 and ours[0] != ours[1]


def test_the_peer_stops_when_patience_ends(open_side):
    side = open_side("glm", "paddlenlp")
    for task in ("greedy-2", "beam-2"):
        cut = side.generate(TASKS[task], patience=0.0)
        assert len(cut.marks) == paddlenlp.LEAST_STEPS and {len(row) for row in cut.tokens} == {paddlenlp.LEAST_STEPS}


def test_this_project_repeats_no_3_gram(open_side):
    for row in open_side("glm", "onnx-fp32").generate(TASKS["beam-2"], PATIENCE).tokens:
        grams = list(zip(row, row[1:], row[2:], strict=False))
        assert len(set(grams)) == len(grams) == QUICK_SHAPES["glm"].new_tokens - 2


def test_losses_agree_and_the_check_would_see_another_batch(open_side):
    ours, theirs = open_side("glm", "eager"), open_side("glm", "paddlenlp")
    loss = theirs.first_loss()
    assert ours.first_loss() == pytest.approx(loss, abs=1e-5)
    ours.training["labels"] = ours.training["labels"].roll(1, axis=0)
    assert abs(ours.first_loss() - loss) > 1e-3


@pytest.mark.parametrize("task", ["train", "lora"])
def test_training_steps_change_what_they_should(open_side, prepared, task):
    # q, k and v with a pair of matrices each; PaddleNLP's fused projection has one pair.
    adapters = {"eager": 4 * 3 * (128 + 128) * LORA_RANK, "paddlenlp": 4 * (128 + 3 * 128) * LORA_RANK}
    for name, size in adapters.items():
        side = open_side("glm", name)
        measured = Measured(side, QUICK_SHAPES["glm"])
        runs = [measured.answer({"task": task}) for _ in range(3)]
        assert {run["trained_parameters"] for run in runs} == {
            size if task == "lora" else prepared["glm"][1]["parameters"]
        }
        assert side.first_loss() < runs[0]["loss"] == runs[2]["loss"]


def test_profiles_say_what_the_time_goes_to(open_side):
    graph = open_side("glm4", "onnx-int4").profile(TASKS["decode"])
    assert any(part["what"].startswith("MatMulNBits → ") for part in graph)
    # One call per step and layer: the prompt's reading is left out.
    attention = next(part for part in graph if part["what"] == "GroupQueryAttention")
    assert attention["calls"] == 2 * (QUICK_SHAPES["glm4"].new_tokens - 1)
    assert onnx.OUTSIDE in [part["what"] for part in graph]
    assert [part["seconds"] for part in graph] == sorted((part["seconds"] for part in graph), reverse=True)
    operators = open_side("glm4", "eager").profile(TASKS["decode"])
    assert any("matmul" in part["what"].lower() for part in operators)


def test_own_times_leave_out_what_runs_inside():
    def span(name, start, length):
        return {"ph": "X", "name": name, "ts": start, "dur": length, "tid": 1}

    found = {part["what"]: part for part in own_times([span("a", 0, 10e6), span("b", 1e6, 4e6), span("b", 6e6, 1e6)])}
    assert found["a"]["seconds"] == pytest.approx(5) and found["b"] == {"what": "b", "seconds": 5.0, "calls": 2}


def test_one_thread_in_two_rows_and_rounded_times_are_counted_once():
    """As Paddle writes it: Python's layers around C++'s operators, and beginnings cut to whole microseconds."""

    def span(name, start, length, thread):
        return {"ph": "X", "name": name, "ts": start, "dur": length, "tid": thread}

    trace = [
        *(span("step", 0, 1000.0, "7(Python)"), span("Linear", 0, 900.0, "7(Python)")),
        *(span("matmul dygraph", 10, 800.9, "7(C++)"), span("infer_meta", 20, 8.9, "7(C++)")),
        *(span("matmul", 28, 700.5, "7(C++)"), span("add", 910, 50.0, "7(C++)"), span("other", 5, 60.0, "8(C++)")),
    ]
    found = {part["what"]: part["seconds"] * 1e6 for part in own_times(trace)}
    wanted = {"step": 50, "Linear": 99.1, "matmul dygraph": 91.5, "infer_meta": 8.9, "matmul": 700.5, "add": 50}
    assert found == pytest.approx(wanted | {"other": 60})
    assert sum(found.values()) == pytest.approx(1000 + 60)


def test_a_profile_adds_up_to_its_run():
    """A real trace: no more than the time between its beginning and its end."""
    layer, x = paddle.nn.Sequential(paddle.nn.Linear(64, 64), paddle.nn.Dropout(0.5)), paddle.randn([64, 64])
    taken = []

    def step():
        begin = time.perf_counter()
        layer(x).mean().backward()
        taken.append(time.perf_counter() - begin)

    parts = paddle_operators(step)
    assert {"Linear", "matmul", "Gradient Backward"} <= {part["what"] for part in parts}
    assert 0.5 * taken[0] < sum(part["seconds"] for part in parts) < 1.5 * taken[0] + 0.01


def test_a_fresh_start_has_stages(prepared):
    stages = []
    generate = start_onnx(prepared["glm4"][0], SIDES["onnx-int4"], QUICK_SHAPES["glm4"], stages)
    assert len(generate(3)[0].tokens) == 3
    assert [stage["what"] for stage in stages] == ["imports", "model loaded"]
    assert 0 < stages[0]["seconds"] <= stages[1]["seconds"] <= since_start()
    assert 2**20 < stages[0]["memory"] <= peak_memory()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("matmul_grad kernel launch[30.267 ms]", "matmul_grad"),
        ("Gradient Backward[87.607 ms]", "Gradient Backward"),
        ("ProfileStep#0[186.224 ms]", "ProfileStep"),
        ("SelfAttention", "SelfAttention"),
    ],
)
def test_calls_of_an_operator_have_one_name(name, found):
    assert operator(name) == found

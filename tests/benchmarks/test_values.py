"""From runs to numbers, ratios and aims."""

import pytest

from benchmarks.plan import Measured, Plan
from benchmarks.rows import ROWS
from benchmarks.settings import LONGEST_FIRST, SHAPES, SIDES, TASKS, Shape, Task
from benchmarks.side import pace, projected_seconds
from benchmarks.values import aimed, build_row, missed, summary, value_of
from tests.benchmarks.made import generation, measured_decode

SHAPE = Shape({}, train_batch=2, train_source=10, train_target=5, prompt=128, new_tokens=32)
GREEDY = Task("generate", "whole", batch=2)


def test_values_by_hand():
    run = generation(0.5, 0.25, count=5)
    assert value_of(Task("generate", "prefill", batch=2), SHAPE, run) == pytest.approx(2 * 128 / 0.5)
    assert value_of(Task("generate", "decode", batch=2), SHAPE, run) == pytest.approx(2 / 0.25)
    assert value_of(Task("train", "trained"), SHAPE, {"seconds": 3.0}) == pytest.approx(2 * 15 / 3.0)
    assert value_of(Task("start", "peak_memory"), SHAPE, {"seconds": 1.0, "peak_memory": 7}) == 7


def test_missing_tokens_continue_at_the_pace_of_the_later_ones():
    whole, cut = generation(5.0, 1.5, 32), generation(5.0, 1.5, 4)
    assert value_of(GREEDY, SHAPE, cut) == pytest.approx(value_of(GREEDY, SHAPE, whole))
    assert value_of(GREEDY, SHAPE, whole) == pytest.approx(2 * 32 / (5 + 31 * 1.5))
    assert projected_seconds([(1, 2.0), (32, 9.0)], 32) == 9.0


def test_one_mark_gives_no_pace():
    with pytest.raises(ValueError, match="no pace"):
        pace([(1, 0.5)])


def test_a_summary_has_percentiles():
    found = summary([1.0, 2.0, 3.0, 4.0, 10.0])
    assert (found["median"], found["p10"], found["p90"]) == (3.0, pytest.approx(1.4), pytest.approx(7.6))


@pytest.mark.parametrize(
    ("ours", "theirs", "small", "met"),
    [
        (26, 10, False, True),
        (25, 10, False, False),
        (27, 10, True, False),
        (2, 10, True, True),
        (None, 10, False, False),
    ],
)
def test_an_aim_is_met_or_missed(ours, theirs, small, met):
    assert aimed("transformers", 2.6, ours, theirs, small)["met"] is met


def test_without_an_aim_there_is_only_a_ratio():
    assert aimed("machine", None, 1.0, 2.0, False) == {"side": "machine", "aim": None, "ratio": 0.5, "met": None}


def test_a_row_compares_with_every_peer_and_the_limit():
    row = build_row("decode-fp32", *measured_decode())
    ratios = {aim["side"]: aim["ratio"] for aim in row["aims"]}
    # 440,000 bytes per second over 1000 weights of 4 bytes.
    assert row["cells"]["machine"]["median"] == pytest.approx(110.0)
    assert ratios == pytest.approx({"transformers": 5.0, "llama-f32": 2.0, "machine": 100 / 110})
    assert missed([row]) == []
    assert {aim["side"]: aim["aim"] for aim in row["aims"]} == {"transformers": None, "llama-f32": 1.0, "machine": 0.88}
    slower = build_row("decode-fp32", *measured_decode(llama=0.009))
    assert missed([slower]) == ["decode-fp32"]


def test_a_failed_side_is_an_error_and_its_aim_missed():
    row = build_row("decode-fp32", *measured_decode(llama_f32=[{"error": "no [room]"}]))
    assert row["cells"]["llama-f32"] == {"error": "no [room]"}
    assert [aim["met"] for aim in row["aims"]] == [None, False, True]


def test_a_side_that_failed_late_keeps_its_good_runs():
    row = build_row("decode-fp32", *measured_decode(llama_f32=[generation(0.1, 0.02), {"error": "died"}]))
    assert row["cells"]["llama-f32"]["median"] == pytest.approx(50.0)


def test_memory_is_compared_with_the_size_of_the_weights():
    runs = [{"seconds": 0.2, "peak_memory": peak, "weights": 100} for peak in (108, 120, 109)]
    measured = Measured(prepared={"glm4": {}}, runs={("glm4", "memory", "cpp-int4"): runs})
    row = build_row("cpp-memory-int4", Plan(("cpp-memory-int4",), 3), measured)
    assert row["aims"][0] == {"side": "weights", "aim": 1.1, "ratio": pytest.approx(1.09), "met": True}
    measured.runs["glm4", "memory", "cpp-int4"] = [{"error": "died"}]
    row = build_row("cpp-memory-int4", Plan(("cpp-memory-int4",), 3), measured)
    assert row["aims"][0]["met"] is False and row["cells"]["weights"] == {"error": "was not run"}


def test_the_tables_fit_together():
    for row in ROWS.values():
        assert row.shape in SHAPES and row.task in TASKS and SIDES[row.ours].ours
        assert set(row.sides) <= set(SIDES) and len(set(row.sides)) == len(row.sides)


def test_the_aims_are_those_of_the_issue():
    intel, amd = ({name: row.aims_of(kind) for name, row in ROWS.items()} for kind in ("intel", "amd"))
    assert intel["train"] == {"transformers": 1.15, "machine": 0.7} and amd["lora"] == {"peft": 1.7, "machine": 0.7}
    assert intel["prefill-128"] == {"transformers": 1.5} and intel["prefill-2048"] == {"transformers": 1.3}
    assert amd["prefill-128"] == amd["prefill-2048"] == {"transformers": 2.0}
    assert intel["decode-fp32"] == {"transformers": None, "llama-f32": 1.0, "machine": 0.88}
    assert amd["decode-fp32"] == {"transformers": 2.6, "llama-f32": 1.0, "machine": 0.88}
    assert intel["decode8-fp32"] == {"transformers": None, "llama-f32": 1.2, "machine": None}
    assert intel["decode-int8"] == {"transformers": None, "llama-q8_0": 1.15, "machine": 0.75}
    assert intel["decode-int4"] == {"transformers": None, "llama-q4_0": 1.15, "machine": 0.75}
    for aims in (intel, amd):
        assert aims["decode16-fp32"] == {"llama-f32": 1.2, "machine": None}
        assert aims["decode8-int4"] == aims["decode16-int4"] == {"llama-q4_0": 1.2, "machine": None}
        assert aims["beam"]["machine"] == 0.75 and aims["eager-decode"] == {"onnx-fp32": 0.7}
        assert aims["eager-128"] == aims["eager-2048"] == {"onnx-fp32": 0.9}
        assert aims["glm-beam"] == {"paddlenlp": 20.0} and aims["glm-greedy"] == {"paddlenlp": None, "machine": None}
        assert aims["start-fp32"] == aims["start-int4"] == {"transformers": 0.5}
        assert aims["memory-int4"] == {"transformers": 0.6}
        assert aims["cpp-start-int4"]["first-token"] * LONGEST_FIRST == 0.25
        assert aims["cpp-memory-int4"]["weights"] == aims["cpp-memory-fp32"]["weights"] == 1.1
        assert (aims["cpp-decode-int4"]["onnx-int4"], aims["cpp-decode-fp32"]["onnx-fp32"]) == (1.15, 1.0)
        assert aims["big-prefill-128"] == aims["big-prefill-1024"] == {"llama-q4_0": 1.1}
        assert aims["big-decode-int4"] == aims["big-decode-head4"] == {"llama-q4_0": 1.1, "machine": 0.85}
    assert (SHAPES["glm4"].prompt, SHAPES["glm4"].long_prompt) == (128, 2048)
    assert (SHAPES["glm4-9b"].prompt, SHAPES["glm4-9b"].long_prompt) == (128, 1024)

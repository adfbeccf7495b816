"""From workers' lines to ratios, checks and failures."""

import io
import math

import pytest
from benchmarks.limits import decoding_limit, generation_limit, training_limit
from rich.console import Console

from benchmarks.plan import Measurement, Plan
from benchmarks.report import build_report, print_report
from benchmarks.settings import SHAPES, TASKS, Shape

PLAN = Plan("large", ("project", "tuned"), ("train", "greedy"), runs=3)
WORK = {"parameters": 1200, "block_parameters": 900, "head_parameters": 290}
MACHINE = {"matmul_gflops": 100.0, "read_gigabytes_per_second": 40.0}


def results(**changes) -> dict[Measurement, dict]:
    """Workers' results as they should be; `changes` by column_task replace fields."""

    def train(rate):
        return {"loss": 10.5, "tokens_per_second": rate, "peak_memory_bytes": 2**31}

    def greedy(rate, steps):
        rates = {"tokens_per_second": rate, "decode_tokens_per_second": 2 * rate}
        row = list(range(100, 100 + steps))
        prediction = {"from_tokens": 8, "predicted": 1.41, "measured": 1.42} if steps == 32 else None
        run = {"steps": [steps], "generated": [row, row], "prediction": prediction}
        return rates | run | {"peak_memory_bytes": 2**31}

    found = {
        "project_prepare": WORK,
        "project_machine": MACHINE,
        "project_train": train(60.0),
        "tuned_train": train(30.0),
        "project_greedy": greedy(20.0, 32),
        "tuned_greedy": greedy(1.0, 8),
    }
    found |= {name: found[name] | change if "error" not in change else change for name, change in changes.items()}
    return {Measurement(*name.split("_")): result for name, result in found.items()}


def printed(report: dict) -> str:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=200))
    return stream.getvalue()


def test_rows_have_rates_ratios_aims_and_limits():
    train, greedy, decode = build_report(PLAN, results())["rows"]
    assert (train["ratios"], train["aim"]) == ({"tuned": 2.0}, 1.5)
    assert (greedy["ratios"], greedy["aim"]) == ({"tuned": 20.0}, 10.0)
    assert decode["aim"] is None and greedy["limit"] < decode["limit"]
    assert decode["columns"]["project"]["rate"] == 40.0
    assert decode["limit"] == pytest.approx(2 * 40e9 / (4 * (900 + 290)))


def test_the_table_shows_numbers_memory_and_aims():
    text = printed(build_report(PLAN, results()))
    assert "60.00 (2.0)" in text and "20.0x" in text and "10x" in text and "100.0" in text
    assert "FAILED" not in text


def test_columns_that_agree_pass():
    report = build_report(PLAN, results())
    assert [check["what"] for check in report["checks"]] == ["loss", "tokens"]
    assert report["failures"] == []


@pytest.mark.parametrize("loss", [10.502, 10.498, math.nan])
def test_another_loss_fails_loudly(loss):
    report = build_report(PLAN, results(tuned_train={"loss": loss}))
    assert len(report["failures"]) == 1 and "losses of the same batch differ" in report["failures"][0]
    assert "DIFFERENT" in printed(report)


def test_a_loss_within_the_tolerance_passes():
    assert not build_report(PLAN, results(tuned_train={"loss": 10.50005}))["failures"]


def test_another_token_fails_loudly():
    tokens = [[100, 101, 102], [100, 101, 103]]
    report = build_report(PLAN, results(tuned_greedy={"generated": tokens}))
    assert len(report["failures"]) == 1 and "not equal" in report["failures"][0]


def test_no_tokens_are_no_equal_tokens():
    assert build_report(PLAN, results(tuned_greedy={"generated": [[], []]}))["failures"]


def test_a_failed_worker_shows_its_reason_in_its_place():
    report = build_report(PLAN, results(tuned_train={"error": "MemoryError: [no] room"}))
    assert report["rows"][0]["columns"]["tuned"] == {"error": "MemoryError: [no] room"}
    assert report["rows"][0]["ratios"] == {}
    assert report["failures"] == ["paddlenlp tuned: training, all weights: MemoryError: [no] room"]
    assert printed(report).count("[no] room") == 2


def test_without_weights_there_are_rows_and_a_failure():
    report = build_report(PLAN, {Measurement("project", "prepare"): {"error": "no room"}})
    assert report["rows"][0]["columns"]["project"] == {"error": "was not run"}
    assert report["failures"] == ["this project: prepare: no room"]
    assert "no room" in printed(report)


def test_what_was_cut_short_is_said():
    notes = " ".join(build_report(PLAN, results())["notes"])
    assert "paddlenlp tuned: generation, greedy: 8 of 32 tokens" in notes


@pytest.mark.parametrize("flag", ["0", None])
def test_it_is_said_where_the_peer_forbids_no_repeats(flag):
    beam = {"tokens_per_second": 1.0, "decode_tokens_per_second": 1.0, "steps": [32], "peak_memory_bytes": 2**31}
    settings = {"FLAGS_use_stride_kernel": flag} if flag else {}
    found = results() | {Measurement("tuned", "beam"): beam | {"settings": settings}}
    notes = build_report(Plan("large", ("tuned",), ("beam",), 1), found)["notes"]
    assert any("has no effect" in note for note in notes) == bool(flag)


def test_limits_by_hand():
    shape = Shape("any", batch=2, source=200, new_tokens=50)
    train, lora, greedy, beam = (TASKS[name] for name in ("train", "lora", "greedy", "beam"))
    assert training_limit(train, shape, WORK, MACHINE) == pytest.approx(100e9 / (6 * (900 + 0.2 * 290)))
    assert training_limit(lora, shape, WORK, MACHINE) == pytest.approx(100e9 / (4 * (900 + 0.2 * 290)))
    step = 4 * (900 + 290) / 40e9
    assert decoding_limit(greedy, shape, WORK, MACHINE) == pytest.approx(2 / step)
    prompt = 2 * 2 * 200 * 900 / 100e9
    assert generation_limit(greedy, shape, WORK, MACHINE) == pytest.approx(100 / (prompt + 50 * step))
    # Ten rows multiply longer (0.2 ns a weight) than their weights are read (0.1 ns).
    assert decoding_limit(beam, shape, WORK, MACHINE) == pytest.approx(2 / (2 * 10 * (900 + 290) / 100e9))


def test_the_large_shape_is_the_published_one():
    shape = SHAPES["large"]
    assert (shape.preset, shape.batch, shape.source, shape.new_tokens) == ("glm-large-chinese", 2, 200, 32)

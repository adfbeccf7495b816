"""What a machine allows, by hand."""

import pytest

from benchmarks.limits import limit, read_rate
from benchmarks.prepare import config_of, work
from benchmarks.rows import Row, processor_kind
from benchmarks.settings import QUICK_SHAPES, Shape
from benchmarks.sides import machine
from tests.benchmarks.made import WORK

SHAPE = Shape({}, train_batch=2, train_source=10, train_target=5, prompt=128, new_tokens=33)
BYTES = 4 * 1000  # of float32: 900 of blocks and 100 of the head


def allowed(task: str, read: float, matmul: float, side: str = "onnx-fp32") -> float:
    rates = [{"read": read, "matmul": matmul}] * 2
    return limit(Row("a row", "glm4", task, side, {}), SHAPE, WORK, rates)["median"]


def test_a_step_reads_all_weights_once_for_all_rows():
    assert allowed("decode", read=BYTES, matmul=1e12) == pytest.approx(1)
    assert allowed("decode-8", read=BYTES, matmul=1e12) == pytest.approx(8)
    four_bits = 900 * (0.5 + 4 / 128) + 100 * (1 + 4 / 128)
    assert allowed("decode", read=four_bits, matmul=1e12, side="onnx-int4") == pytest.approx(1)
    four_bits = 1000 * (0.5 + 4 / 128)
    assert allowed("decode", read=four_bits, matmul=1e12, side="onnx-int4-head4") == pytest.approx(1)


def test_weights_are_read_at_the_rate_of_as_many_bytes():
    rate = {"read": 1.0, "read_of": {"64": 3.0, "128": 2.0}, "matmul": 1e12}
    assert [read_rate(rate, size) for size in (10, 64, 65, 129)] == [3.0, 3.0, 2.0, 1.0]
    found = limit(
        Row("a row", "glm4", "decode", "onnx-fp32", {}), SHAPE, WORK, [rate | {"read_of": {"4096": 2 * BYTES}}]
    )
    assert found["median"] == pytest.approx(2) and found["read"]["median"] == 2 * BYTES


@pytest.mark.parametrize(("matrix", "dots"), [(2.0, 0.5), (0.5, 2.0)])
def test_the_faster_way_to_read_is_the_machines_rate(monkeypatch, matrix, dots):
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 22)
    monkeypatch.setattr(machine, "SMALLER", (1 << 20,))
    monkeypatch.setattr(machine, "MATMUL_SIZE", 16)
    taken = iter([1.0, matrix, dots, matrix, dots])

    def best(function, runs):
        function()
        return next(taken)

    monkeypatch.setattr(machine, "best", best)
    found = machine.Side(None).rate()
    assert found["read"] == (1 << 22) / 0.5 and found["read_of"] == {str(1 << 20): (1 << 20) / 0.5}
    assert next(taken, None) is None


def test_a_step_of_many_rows_is_as_slow_as_its_multiplications():
    assert allowed("decode-16", read=1e12, matmul=2 * 1000) == pytest.approx(1)


def test_of_the_experts_a_step_reads_those_of_a_token():
    config = config_of(QUICK_SHAPES["glm4-moe"])
    hidden, expert = 128, 3 * 128 * 64
    attention = 2 * hidden * 4 * 32 + 2 * hidden * 2 * 32 + (4 + 2 * 2) * 32
    dense, sparse = 3 * hidden * 256, (2 + 1) * expert + hidden * 8 + 8
    found = work(config)
    assert found["block_parameters"] == 3 * (attention + 2 * hidden) + dense + 2 * sparse
    assert found["parameters"] == found["block_parameters"] + 2 * 6 * expert + 2 * 320 * hidden + hidden


def test_beams_read_the_prompt_once_and_weights_once_a_step():
    prompt = 2 * (900 * 128 + 100)
    # A second for the prompt, and one for each of 32 steps: five rows are multiplied in less.
    assert allowed("beam", read=BYTES, matmul=prompt) == pytest.approx(33 / 33)
    assert allowed("beam", read=2 * BYTES, matmul=prompt) == pytest.approx(33 / 17)
    assert allowed("beam", read=1e12, matmul=prompt) == pytest.approx(33 / (1 + 32 * 5 * 2000 / prompt))


def test_training_multiplies_three_times_and_adapters_twice():
    forward = 2 * (900 * 30 + 100 * 10)  # the head sees trained tokens alone
    assert allowed("train", read=1.0, matmul=3 * forward, side="eager") == pytest.approx(30)
    assert allowed("lora", read=1.0, matmul=2 * forward, side="eager") == pytest.approx(30)


def test_a_prompt_multiplies_its_tokens_and_one_row_of_the_head():
    assert allowed("prefill", read=1.0, matmul=2 * (900 * 128 + 100)) == pytest.approx(128)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Intel(R) Xeon(R) Processor @ 2.50GHz", "intel"), ("AMD EPYC", "amd"), ("Neoverse-N1", None), ("", None)],
)
def test_kinds_of_processors(name, kind):
    assert processor_kind(name) == kind

"""bench.json, the tables and docs/benchmarks.md of made-up results."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks.checks import build_checks, loss_check, token_check
from benchmarks.docs import page, write_docs
from benchmarks.plan import Measured, Plan
from benchmarks.report import build_report, print_report
from tests.benchmarks.made import WORK, generation, measured_decode

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is, and start workers

START = {"started": "2030-01-02T03:04:05+00:00", "seconds": 61.0, "command": "python -m benchmarks"}


def report(**changes) -> dict:
    return START | build_report(*measured_decode(**changes))


def printed(found: dict) -> str:
    stream = io.StringIO()
    print_report(found, Console(file=stream, width=200))
    return stream.getvalue()


def test_the_report_is_json_and_has_every_run():
    found = json.loads(json.dumps(report(), default=dict))
    assert found["failures"] == [] and found["versions"]["onnxruntime"] == "1.0"
    runs = {m["side"]: m["runs"] for m in found["measurements"]}
    assert runs["transformers"] == [generation(0.5, 0.05)] * 2


def test_the_table_shows_values_ratios_and_aims():
    text = printed(report(llama=0.0099))
    assert "5.00×" in text and "at least 2.6×" not in text and "91%" in text and "0.99×" in text
    assert text.count("met") == 1 and text.count("missed") == 1 and "FAILED" not in text


def test_aims_are_those_of_the_processor():
    plan, measured = measured_decode(llama=0.0099)
    text = printed(START | build_report(replace(plan, processor="amd"), measured))
    assert "at least 2.6×" in text and text.count("met") == 2


def test_a_failed_side_shows_its_reason():
    found = report(llama_f32=[{"error": "MemoryError: [no] room"}])
    assert found["failures"] == ["decode b=1 fp32, llama.cpp f32: MemoryError: [no] room"]
    assert "[no] room" in printed(found) and "MemoryError" in page(found)


def test_without_weights_there_are_rows_and_failures():
    found = START | build_report(Plan(("decode-int4",), 1), Measured(prepared={"glm4": {"error": "no room"}}))
    assert found["rows"][0]["cells"]["onnx-int4"] == {"error": "no room"} and len(found["failures"]) == 5
    assert "no room" in printed(found) and "no room" in page(found)


@pytest.mark.parametrize(("loss", "agree"), [(10.50005, True), (10.502, False), (math.nan, False)])
def test_losses_agree_or_not(loss, agree):
    assert loss_check("glm4 train", {"eager": 10.5, "transformers": loss})["agree"] is agree


def test_tokens_agree_as_far_as_each_side_went():
    ours = [[1, 2, 3], [4, 5, 6]]
    assert token_check("x", {"onnx-fp32": ours, "paddlenlp": [[1, 2], [4, 5]]})["agree"]
    check = token_check("x", {"onnx-fp32": ours, "loop": ours, "llama-f32": [[1, 2, 3], [4, 9, 6]]})
    assert not check["agree"] and "llama.cpp f32 from row and token (1, 1)" in check["line"]
    assert not token_check("x", {"onnx-fp32": ours, "eager": [[], []]})["agree"]


def test_other_tokens_fail_loudly_and_quantized_sides_are_not_compared():
    found = report(llama_f32=[generation(0.1, 0.02, token=7)] * 2)
    assert len(found["failures"]) == 1 and "NOT equal" in found["failures"][0] and "DIFFERENT" in printed(found)
    plan, measured = measured_decode()
    measured.runs["glm4", "decode", "onnx-int4"] = [generation(0.1, 0.02, token=7)]
    (check,) = build_checks(plan, measured)
    assert check["agree"] and "onnx-int4" not in check["values"]


def test_a_missed_row_shows_its_profile():
    plan, measured = measured_decode(llama=0.001)
    parts = [{"what": "MatMul → 50", "seconds": 0.75, "calls": 3}, {"what": "rest", "seconds": 0.25, "calls": 0}]
    measured.profiles["decode-fp32"] = {"profile": parts}
    text = page(START | build_report(plan, measured))
    assert "## Where an aim is missed" in text and "| MatMul → 50 | 750.0 | 75% | 3 |" in text
    assert "Where an aim" not in page(report())


def test_the_stages_of_a_start_are_its_profile():
    def run(python, loaded):
        stages = [{"what": w, "seconds": s, "memory": 10**6 * s} for w, s in (("python", python), ("loaded", loaded))]
        return {"seconds": loaded, "peak_memory": 1.0, "stages": stages}

    measured = Measured(prepared={"glm4": dict(WORK)})
    for side, runs in {"onnx-fp32": [run(1, 4), run(2, 6), run(3, 9)], "transformers": [run(1, 2)]}.items():
        measured.runs["glm4", "start", side] = runs
    text = page(START | build_report(Plan(("start-fp32",), 3), measured))
    assert "3.00×" in text and "**missed**" in text and "| loaded | 4.00 | 1.00 |" in text


def test_a_skipped_row_says_why():
    line = "C++, decode b=1 int4: output/cpp/glm_infer is not built: make cpp"
    found = report() | {"skipped": [line]}
    assert f"SKIPPED {line}" in printed(found) and f"## Skipped\n\n- {line}" in page(found)
    assert "kipped" not in page(report()) and "SKIPPED" not in printed(report())


def test_the_page_has_command_versions_machine_and_limits(tmp_path):
    write_docs(of_processor("AMD EPYC"), tmp_path / "docs")
    text = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "`python -m benchmarks` on 2030-01-02 03:04 UTC" in text and "onnxruntime 1.0" in text
    assert "## Physical limits" in text and "cores" in text and "| decode b=1 fp32 | glm, ONNX Runtime fp32 |" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith(" |") and line.count("|") > 3


def of_processor(name: str) -> dict:
    found = report()
    found["machine"]["processor"] = name
    return found


def test_kinds_of_processors_have_pages_of_their_own(tmp_path):
    for name, page_name, others in (
        ("Intel(R) Xeon(R) Processor", "benchmarks-intel", ["benchmarks.md"]),
        ("AMD EPYC", "benchmarks", ["benchmarks-intel.md"]),
        ("Neoverse-N1", "benchmarks-other", ["benchmarks-intel.md", "benchmarks.md"]),
    ):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        write_docs(of_processor(name), tmp_path)
        text = (tmp_path / f"{page_name}.md").read_text(encoding="utf-8")
        assert f"({page_name}.svg)" in text and (tmp_path / f"{page_name}.svg").is_file()
        assert all(f"({other})" in text for other in others) and f"({page_name}.md)" not in text
        assert before.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()


def test_a_quick_run_says_so():
    plan, measured = measured_decode()
    text = page(START | build_report(Plan(plan.rows, 1, quick=True), measured))
    assert "say nothing about speed" in text and "say nothing about speed" not in page(report())

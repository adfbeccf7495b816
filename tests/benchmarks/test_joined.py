"""Several runs shown as one."""

import json

import pytest

import benchmarks.__main__ as command
from benchmarks.docs import page
from benchmarks.joined import joined
from benchmarks.plan import Measured, Plan
from benchmarks.report import build_report
from glm.errors import GLMError
from tests.benchmarks.made import measured_decode

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is


def run(day: int, plan: Plan, measured: Measured, **changes) -> dict:
    found = {"started": f"2030-01-{day:02}T03:04:05+00:00", "seconds": 60.0, "command": "x", "skipped": []}
    found |= build_report(plan, measured)
    return json.loads(json.dumps(found | changes, default=dict))


def failed(*rows: str) -> tuple[Plan, Measured]:
    return Plan(rows, 1), Measured(prepared={"glm4": {"error": "no room"}})


def test_the_last_run_of_a_row_counts_and_its_failure_is_gone():
    first, second = run(1, *failed("decode-int4", "decode-fp32")), run(2, *measured_decode(ours=0.01))
    found = joined([first, second])
    assert [row["row"] for row in found["rows"]] == ["decode-fp32", "decode-int4"]  # in the table's order
    assert found["rows"][0]["cells"] == second["rows"][0]["cells"]
    assert found["failures"] == [line for line in first["failures"] if "int4" in line] and found["failures"]
    assert [part["rows"] for part in found["parts"]] == [["decode-int4"], ["decode-fp32"]]
    assert found["checks"] == second["checks"] and found["seconds"] == 120.0
    assert found["measurements"] == second["measurements"] != []


def test_a_joined_report_is_joined_again_and_a_run_without_rows_left_is_not_named():
    found = joined([joined([run(1, *failed("decode-fp32")), run(2, *failed("train"))]), run(3, *measured_decode())])
    assert [(part["started"][:10], part["rows"]) for part in found["parts"]] == [
        ("2030-01-02", ["train"]),
        ("2030-01-03", ["decode-fp32"]),
    ]
    text = page(found)
    assert "2030-01-03 03:04" in text and "2030-01-01" not in text and "from the files of these runs" in text


def test_what_was_skipped_once_and_measured_later_is_not_skipped():
    lines = ["decode b=1 fp32: no compiler", "decode b=1 int4: no compiler"]
    found = joined([run(1, *failed("train"), skipped=lines), run(2, *measured_decode())])
    assert found["skipped"] == lines[1:]


def test_two_processors_or_kinds_of_shapes_are_not_joined():
    one, other = run(1, *measured_decode()), run(2, *measured_decode())
    machine = one["machine"] | {"processor": "Another"}
    with pytest.raises(GLMError, match="Another"):
        joined([one, other | {"machine": machine}])
    with pytest.raises(GLMError, match="--quick"):
        joined([one, other | {"quick": True}])


@pytest.mark.parametrize(
    ("text", "word"), [("[1]", "no report"), ("{", "no report"), ('{"format_version": 1}', "format 1")]
)
def test_a_file_of_another_kind_is_one_line(tmp_path, capsys, text, word):
    (tmp_path / "a.json").write_text(text)
    assert command.main(["--from_json", str(tmp_path / "a.json")]) == 1
    assert word in (line := capsys.readouterr().err) and line.count("\n") == 1


def test_several_files_are_shown_as_one_table(tmp_path, capsys):
    for name, found in (("a", run(1, *failed("train"))), ("b", run(2, *measured_decode()))):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    assert command.main(["--from_json", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    text = capsys.readouterr().out
    assert "full fine-tuning" in text and "decode b=1 fp32" in text

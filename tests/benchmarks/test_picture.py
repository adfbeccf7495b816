"""The picture of made-up results: what it says, and that the same numbers draw the same file."""

import pytest
from test_report import START, report

from benchmarks.docs import write_docs
from benchmarks.picture import draw, ratios
from benchmarks.plan import Measured, Plan
from benchmarks.report import build_report

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is, and start workers


def test_more_is_better_in_every_row():
    found = report()
    (title, peers), *_ = ratios(found)
    assert title == "decode b=1 fp32" and {name: ratio for name, ratio, _ in peers}["transformers"] == 5.0
    assert not any("limit" in name for name, _, _ in peers)
    row = found["rows"][0]
    row["small_is_better"] = True
    assert {name: (ratio, aim) for name, ratio, aim in ratios(found)[0][1]}["transformers"] == (
        pytest.approx(1 / 5),
        pytest.approx(1 / 2.6),
    )


def test_other_shapes_are_named():
    found = report()
    found["shapes"] = {"other": {"title": "another shape"}} | found["shapes"]
    assert ratios(found)[0][0] == f"{found['shapes']['glm4']['title']}: decode b=1 fp32"


def test_the_picture_says_what_the_rows_say(tmp_path):
    for name in ("first.md", "second.md"):
        write_docs(report(), tmp_path / name)
    first = (tmp_path / "first.svg").read_text(encoding="utf-8")
    assert first == (tmp_path / "second.svg").read_text(encoding="utf-8")
    assert "decode b=1 fp32" in first and ">5<" in first and "llama.cpp" in first


def test_nothing_measured_is_an_empty_picture(tmp_path):
    found = START | build_report(Plan(("decode-int4",), 1), Measured(prepared={"glm4": {"error": "no room"}}))
    assert ratios(found) == []
    draw(found, tmp_path / "empty.svg")
    assert "decode" not in (tmp_path / "empty.svg").read_text(encoding="utf-8")

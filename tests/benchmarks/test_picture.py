"""The picture of made-up results: what it says, and that the same numbers draw the same file."""

import pytest
from test_report import START, report

from benchmarks.picture import MARKS, draw, ratios
from benchmarks.plan import Measured, Plan
from benchmarks.report import build_report
from benchmarks.rows import ROWS
from benchmarks.settings import SIDES

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is, and start workers


def test_more_is_better_in_every_row():
    found = report()
    (title, peers), *_ = ratios(found)
    assert title == "decode b=1 fp32" and {name: ratio for name, ratio, _ in peers}["transformers"] == 5.0
    assert not any("limit" in name for name, _, _ in peers)
    row = found["rows"][0]
    row["small_is_better"] = True
    peers = {name: (ratio, aim) for name, ratio, aim in ratios(found)[0][1]}
    assert peers["transformers"] == (pytest.approx(1 / 5), None)
    assert peers["llama.cpp f32"] == (pytest.approx(1 / 2), 1.0)


def test_every_peer_of_a_row_has_a_mark_and_this_project_is_none():
    titles = {SIDES[side].title for row in ROWS.values() for side in row.aims if side in SIDES and not SIDES[side].ours}
    assert all(any(title.startswith(mark) for mark in MARKS) for title in titles - {SIDES["machine"].title})
    found = report()
    found["rows"][0]["aims"].append({"side": "onnx-int4", "aim": 1.0, "ratio": 2.0, "met": True})
    assert SIDES["onnx-int4"].title not in {name for name, _, _ in ratios(found)[0][1]}


def test_other_shapes_are_named():
    found = report()
    found["shapes"] = {"other": {"title": "another shape"}} | found["shapes"]
    assert ratios(found)[0][0] == f"{found['shapes']['glm4']['title']}: decode b=1 fp32"


def test_the_picture_says_what_the_rows_say(tmp_path):
    for name in ("first.svg", "second.svg"):
        draw(report(), tmp_path / name)
    first = (tmp_path / "first.svg").read_text(encoding="utf-8")
    assert first == (tmp_path / "second.svg").read_text(encoding="utf-8")
    assert "decode b=1 fp32" in first and ">5<" in first and "llama.cpp" in first


def test_nothing_measured_is_an_empty_picture(tmp_path):
    found = START | build_report(Plan(("decode-int4",), 1), Measured(prepared={"glm4": {"error": "no room"}}))
    assert ratios(found) == []
    draw(found, tmp_path / "empty.svg")
    assert "decode" not in (tmp_path / "empty.svg").read_text(encoding="utf-8")

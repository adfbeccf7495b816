"""The bundled multiple-choice questions: written by their script, right, and each there once."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
FILES = sorted(path.relative_to(DATA).as_posix() for path in DATA.glob("exam_*/*/*.csv"))


def rows(name: str) -> list[list[str]]:
    """Question, choices and answer of each row."""
    found = list(csv.reader((DATA / name).open(encoding="utf-8", newline="")))
    return [row[1:] for row in found[1:]] if name.startswith("exam_zh") else found


def test_the_script_writes_the_bundled_bytes(tmp_path):
    command = [sys.executable, DATA / "make_exam_samples.py", "--output", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("exam_*/*/*.csv"))
    assert made == FILES and len(FILES) == 8
    assert all((tmp_path / name).read_bytes() == (DATA / name).read_bytes() for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file(name):
    found = rows(name)
    assert len(found) == (5 if "/dev/" in name else 20)
    assert all(len(set(row[1:5])) == 4 and row[5] in "ABCD" for row in found)


@pytest.mark.parametrize("subject", ["exam_en/*/elementary_mathematics", "exam_zh/*/middle_school_mathematics"])
def test_sums_are_right(subject):
    names = [name for name in FILES if Path(name).match(f"{subject}_*.csv")]
    found = [row for name in names for row in rows(name)]
    assert len({row[0] for row in found}) == len(found) == 25
    for text, *choices, letter in found:
        first, sign, second = text.removeprefix("What is ").removesuffix("?").removesuffix(" 等于____。").split()
        a, b = int(first), int(second)
        assert int(choices["ABCD".index(letter)]) == {"+": a + b, "−": a - b, "×": a * b}[sign]


def test_orders_are_right():
    """Three facts put four people in a row; the answer is one of its ends."""
    found = [row for name in FILES if "logic" in name for row in rows(name)]
    for text, *choices, letter in found:
        facts, asked = text.split("。")
        pairs = [(fact[0], fact[2], fact[3]) for fact in facts.split("，")]
        more, less = {first for first, _, _ in pairs}, {second for _, second, _ in pairs}
        [best], [worst] = more - less, less - more
        wanted = best if asked[2] == pairs[0][2] else worst
        assert choices["ABCD".index(letter)] == wanted

"""Text in pieces gives what the whole of it gives, wherever it is cut, and no more than one value is held."""

import json
import random
import tracemalloc
from collections.abc import Iterator
from itertools import chain, pairwise

import pytest

from glm.datasets.json_stream import parse_chunks, text_of
from glm.errors import GLMError

ROWS = [
    {"text": '云溪桥\n🙂 \\ " [ {', "n": [1.5e3, True, None]},
    {"text": "", "more": {"x": [[], {}]}},
    {},
    {"n": -12},
]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
MARK = "\ufeff"
GOOD = {
    "lines": "\n".join(LINES),
    "escaped": "\r\n".join(map(json.dumps, ROWS)) + "\r\n",
    "array": json.dumps(ROWS),
    "array of lines": "[\n" + ",\n".join(LINES) + "\n]\n",
    "pretty array": json.dumps(ROWS, indent=4, ensure_ascii=False),
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "joined": f"{MARK}{LINES[0]}\n{MARK}\n[ \n]\n{MARK}[  {{}} , {LINES[1]}\n]\n{LINES[2]}{LINES[3]}\n{MARK}",
}
BAD = {
    "broken line": f'{LINES[0]}\n{{"a": \n{LINES[1]}',
    "words": f"{LINES[0]}\nquestion, answer\nabc\n{LINES[1]}",
    "string without end": f'{LINES[0]}\n{{"a": "b\n{LINES[1]}\n',
    "cut array": f"[{LINES[0]},\n{LINES[1]}",
    "cut in an array": f"[{LINES[0]},\n{LINES[1][:9]}",
    "broken in an array": f'[{LINES[0]},\n{{"a" 1}},\n{LINES[1]}]\n{LINES[2]}',
    "broken in one line": f'[{LINES[0]}, {{"a" 1}}, {LINES[1]}]',
    "no rows": '123456 7890 7 "a"\n[1]\n[[]]\ntrue\nfalse null',
    "half a number": '{"a": 1e}\n{"a": -}\n',
    "bad escapes": '{"a": "\\ud83d\\ude4"}\n{"a": "\\x"}\n',
    "only white space": " \n\n\t",
    "only a mark": MARK,
}


def cut(text: str, draw: random.Random, most: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + draw.randint(0, most)
        yield text[start:end]
        start = end


def whole(text: str) -> list:
    return list(parse_chunks([text], "x"))


@pytest.mark.parametrize("case", GOOD)
def test_every_layout_gives_the_rows(case):
    values = [item.value for item in whole(GOOD[case])]
    assert [value for value in values if value] == [row for row in ROWS if row]
    assert all(item.problem is None for item in whole(GOOD[case]))


@pytest.mark.parametrize("case", [*GOOD, *BAD])
def test_wherever_it_is_cut(case):
    """Values, places, problems and their columns."""
    text, draw = (GOOD | BAD)[case], random.Random(case)
    expected = whole(text)
    assert list(parse_chunks(text, "x")) == expected  # every character alone
    for most in (2, 5, 20, 60):
        for _ in range(10):
            assert list(parse_chunks(cut(text, draw, most), "x")) == expected


def test_the_bad_ones_have_problems():
    for case in BAD.keys() - {"no rows", "only white space", "only a mark"}:
        assert any(item.problem for item in whole(BAD[case])), case
    columns = [item.problem for item in whole(BAD["broken in one line"]) if item.problem]
    assert columns == [f"not valid JSON (Expecting ':' delimiter, column {BAD['broken in one line'].index(' 1}') + 2})"]


@pytest.mark.parametrize("mark", ["", MARK])
def test_bytes_in_pieces(mark):
    content, draw = (mark + GOOD["lines"] * 3).encode(), random.Random(2)
    for most in (1, 3, 50):
        ends = [0, *sorted({draw.randint(0, len(content)) for _ in range(len(content) // most)}), len(content)]
        pieces = [content[start:end] for start, end in pairwise(ends)]
        if len(pieces[0]) > 3:  # a first piece always has room for a mark: 256 KiB
            assert "".join(text_of(pieces, "x")) == GOOD["lines"] * 3


@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_the_line_of_a_byte_that_is_wrong(size):
    content = "一\n二\n三 ".encode() + b"\xc9\xcf\n"
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    with pytest.raises(GLMError, match=r"^x, line 3: not UTF-8 \(byte 0xc9\); save the file as UTF-8"):
        list(text_of(pieces, "x"))
    problems = [item.problem for item in parse_chunks(text_of([b'{"a": "\xc9"}\n{}'], "x", lenient=True), "x")]
    assert problems == ["not UTF-8", None]


def test_an_unfinished_character_at_the_end():
    with pytest.raises(GLMError, match="line 2: not UTF-8 \\(byte 0xe4\\)"):
        list(text_of([b"a\n\xe4\xba"], "x"))


LONG = json.dumps({"text": "x" * 1000})
WRONG = f"{LONG[:-1]} 1}}"
ENDLESS = {"lines": f"{LONG}\n", "array": f"{LONG}, ", "bad lines": f"{WRONG}\n", "bad array": f"{WRONG}, "}


@pytest.mark.parametrize("case", ENDLESS)
def test_one_value_is_held(case):
    """Of 8 MB, as lines and as an array in one line, good rows and bad ones."""
    row = ENDLESS[case]
    pieces = (row * (250_000 // len(row)) for _ in range(32))
    start = ["["] if "array" in case else []
    tracemalloc.start()
    count = sum(1 for _ in parse_chunks(chain(start, pieces), "x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    end = "array" in case  # of the array, which is missing; behind a broken row it is lost with it
    assert count == (1 if case == "bad array" else 32 * (250_000 // len(row)) + end)
    assert peak < 2_000_000

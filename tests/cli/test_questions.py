"""Questions of several lines: between marks from a pipe, and pasted into a terminal, with readline and without it."""

import io
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm.cli.questions import read_question
from glm.errors import GLMError

ROOT = Path(__file__).resolve().parents[2]
ASKING = """
import sys
if {blocked}:
    sys.modules["readline"] = None
from glm.cli.terminal import converse
from glm.encoding.tool_calls import CONTENT, Piece

class Echo:
    tokens = 0
    def pieces(self, query):
        yield Piece(CONTENT, repr(query))

converse(Echo)
"""


def asked(monkeypatch, content: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8"))
    questions = []
    while True:
        try:
            questions.append(read_question())
        except EOFError:
            return questions


@pytest.mark.parametrize(
    ("content", "questions"),
    [
        ("甲\n  乙 \n\n丙", ["甲", "乙", "", "丙"]),
        ('"""\n甲\n\n  乙\n"""\n丙\n', ["甲\n\n  乙", "丙"]),
        ('"""甲\n乙"""\n丙', ["甲\n乙", "丙"]),
        ('"""甲"""\n丙', ["甲", "丙"]),
        ('"""\r\n甲\r\n乙\r\n"""\r\n丙\r\n', ["甲\n乙", "丙"]),
        ('"""\ndef f():\n    """doc"""\n"""\n', ['def f():\n    """doc"""']),
        ('"""\n/exit\n"""\n', ["/exit"]),
        ('他说"""三个\n', ['他说"""三个']),
        ('"""\n"""\n', [""]),
        ("\x1b[200~甲\n乙\x1b[201~\n丙\n", ["甲\n乙", "丙"]),
        ("为什么 \x1b[200~甲\n乙\n丙\x1b[201~？\n丁\n", ["为什么 甲\n乙\n丙？", "丁"]),
        ("\x1b[200~甲\x1b[201~\n", ["甲"]),
    ],
)
def test_questions_of_a_pipe(monkeypatch, content, questions):
    assert asked(monkeypatch, content) == questions


def test_an_input_that_ends_inside_a_question(monkeypatch):
    with pytest.raises(GLMError, match='the input ended in a question that """ began: end it with a line """'):
        asked(monkeypatch, '"""\n甲\n')


@pytest.mark.parametrize("blocked", [False, True], ids=["readline", "no readline"])
def test_a_paste_into_a_terminal(blocked):
    """What a terminal sends for a paste, with its line ends, is one question; so is what stands between marks."""
    typed = [
        b"\x1b[200~def f():\r    return 1\r\x1b[201~\r",
        b'"""\r',
        b"one\r",
        b"two\r",
        b'"""\r',
        b"three\r",
        b"/exit\r",
    ]
    shown = _typed_into(ASKING.format(blocked=blocked), typed)
    for question in ("def f():\n    return 1", "one\ntwo", "three"):
        assert repr(question) in shown, shown
    assert '""" begins and ends a question of several lines, or paste it' in shown


def _typed_into(code: str, typed: list[bytes]) -> str:
    """What a terminal shows of a program, each piece typed once the program waits for one."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), "INPUTRC": "/dev/null"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT) as process:
        os.close(slave)
        try:
            return _typed(master, typed)
        finally:
            process.kill()
            os.close(master)


def _typed(master: int, typed: list[bytes]) -> str:
    shown, waited = b"", time.monotonic() + 60
    for piece in typed:
        begin = len(shown)
        # A read may end inside a character.
        while not any(prompt in shown[begin:] for prompt in (b"> ", "… ".encode())):
            assert time.monotonic() < waited, shown.decode()
            shown += _read(master)
        os.write(master, piece)
    while piece := _read(master):
        shown += piece
    return shown.decode()


def _read(master: int) -> bytes:
    """The next output, b"" at its end."""
    try:
        return os.read(master, 4096) if select.select([master], [], [], 30)[0] else b""
    except OSError:  # the other side is closed
        return b""

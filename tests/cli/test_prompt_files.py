"""Where texts come from and results go to: lines as an editor counts them, and nothing lost that was there."""

import argparse
import io
import os
import threading

import pytest

from glm.cli.prompts import Speed, add_prompt_arguments, read_prompts, show_completions, write_completions
from glm.errors import GLMError, UsageError


def arguments(*words) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_prompt_arguments(parser)
    return parser.parse_args(list(map(str, words)))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "texts.txt"


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        ("one\u2028and\x85more\ntwo".encode(), ["one\u2028and\x85more", "two"]),
    ],
    ids=["byte order mark", "Windows", "separators of Unicode"],
)
def test_lines_of_a_file(file, content, texts):
    file.write_bytes(content)
    assert read_prompts(arguments("--input_file", file)) == texts
    assert read_prompts(arguments("--predict_data", file)) == texts


def test_lines_of_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfone\r\ntwo"), encoding="utf-8"))
    assert read_prompts(arguments("-")) == ["one", "two"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n\xc4\xe3"), encoding="utf-8"))
    with pytest.raises(GLMError, match=r"standard input is not UTF-8 \(byte 4\)"):
        read_prompts(arguments("-"))


def test_blank_lines_are_counted(file, capsys):
    file.write_text("one\n\n  \ntwo\n")
    assert read_prompts(arguments("--input_file", file)) == ["one", "two"]
    assert capsys.readouterr().err == f"{file}: 2 blank line(s) left out\n"


def test_a_text_that_is_not_utf_8():
    with pytest.raises(UsageError, match="text 2 of 2 is not UTF-8"):
        read_prompts(arguments("one", os.fsdecode(b"\xc4\xe3")))


@pytest.mark.parametrize(
    "text", ["介绍一下北京", "what is in readme.txt?", "what is in readme.txt", "x" * 5000, "a/b.c"]
)
def test_predict_data_is_a_text(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    assert read_prompts(arguments("--predict_data", text)) == [text]


@pytest.mark.parametrize(
    ("given", "said"),
    [("promts.jsonl", "promts.jsonl cannot be read"), (".", "Is a directory"), ("", "predict_data is empty")],
)
def test_predict_data_that_was_mistyped(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        read_prompts(arguments("--predict_data", given))


def write(path, *results) -> None:
    write_completions(["?"] * len(results), list(results), arguments("--output_file", path))


def test_a_result_is_one_line(tmp_path):
    write(tmp_path / "out", "one\r\ntwo\u2028three\n", "four")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "one two three\nfour\n"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new\n"


def test_a_pipe_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert read_prompts(arguments("--output_file", tmp_path / "pipe", "a")) == ["a"]
    write(tmp_path / "pipe", "new")
    reader.join()
    assert read == ["new\n"] and (tmp_path / "pipe").is_fifo()


def test_a_directory_is_no_output_file(tmp_path):
    with pytest.raises(UsageError, match=r"is a directory: give a file's name in it"):
        read_prompts(arguments("--output_file", tmp_path, "a"))


def test_results_are_written_before_they_are_shown(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    with pytest.raises(BrokenPipeError):
        show_completions(["?"], ["!"], Speed(1, 1.0), arguments("--output_file", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "!\n"

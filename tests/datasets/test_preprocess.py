"""Raw text to indexed data: every kind of file gives the same bytes, and every bad one is named."""

import bz2
import gzip
import json
import lzma
import re
import sys
import tracemalloc
from io import StringIO
from pathlib import Path

import pyarrow
import pytest
from pyarrow import feather, parquet

from glm.datasets import tokenized
from glm.datasets.documents import Documents, input_files
from glm.datasets.indexed import IndexedDataset
from glm.datasets.indexed_record import read_record
from glm.datasets.preprocess import Preprocessing, merge, preprocess
from glm.datasets.tokenized import EncodingOptions
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer

TOKENIZERS = ("glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-tiny", "glm-4-9b-0414-tiny")
TEXTS = [
    "云溪桥建于1920年。",
    "It's a bridge, 30 m long.",
    "  def f(x):  # 🙂",
    "一",
    "<|endoftext|> [gMASK]",
    "a\tb  c",
] * 5
ROWS = [{"id": number, "text": text, "title": f"t{number}"} for number, text in enumerate(TEXTS)]
LINES = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
JSONL = "".join(LINES).encode()


def make(folder: Path, *inputs: Path, name: str = "out", **options) -> Path:
    """A data set of files, and its prefix."""
    encoding = {"tokenizer": "glm-4-9b-tiny"} | options.pop("encoding", {})
    settings = Preprocessing([*map(str, inputs)], str(folder / name), EncodingOptions(**encoding), **options)
    report = preprocess(settings)
    assert report.prefixes == [settings.prefix(key) for key in settings.keys]
    return report.prefixes[0]


def contents(prefix: Path) -> list[bytes]:
    return [prefix.with_name(prefix.name + ending).read_bytes() for ending in (".bin", ".idx")]


def documents(prefix: Path) -> list[list[int]]:
    return [ids.tolist() for ids in IndexedDataset(prefix)]


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


@pytest.fixture
def rows(tmp_path) -> Path:
    return written(tmp_path / "rows.jsonl", JSONL)


def table() -> pyarrow.Table:
    return pyarrow.Table.from_pylist(ROWS)


def arrow_stream(path: Path) -> None:
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table().schema) as stream:
        stream.write_table(table(), max_chunksize=7)


MAKERS = {
    "rows.json": lambda path: written(path, json.dumps(ROWS)),
    "pretty.json": lambda path: written(path, json.dumps(ROWS, indent=2, ensure_ascii=False)),
    "marked.jsonl": lambda path: written(path, b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n")),
    "rows.parquet": lambda path: parquet.write_table(table(), path, row_group_size=7),
    "zstd.parquet": lambda path: parquet.write_table(table(), path, compression="zstd"),
    "stream.arrow": arrow_stream,
    "feather.arrow": lambda path: feather.write_feather(table(), path, compression="uncompressed"),
    "rows.jsonl.gz": lambda path: written(path, gzip.compress(JSONL[:300]) + gzip.compress(JSONL[300:])),
    "rows.jsonl.bz2": lambda path: written(path, bz2.compress(JSONL)),
    "rows.jsonl.xz": lambda path: written(path, lzma.compress(JSONL)),
    "rows.jsonl.zst": lambda path: written(path, zstd(JSONL)),
    "frames.json.zst": lambda path: written(path, zstd(JSONL[:300]) + zstd(JSONL[300:])),
    "lines.txt": lambda path: written(path, "\n".join(TEXTS)),
    "lines.txt.zst": lambda path: written(path, zstd("\n".join(TEXTS).encode())),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_of_file_gives_the_same_bytes(rows, tmp_path, name):
    expected = contents(make(tmp_path, rows))
    MAKERS[name](tmp_path / name)
    assert contents(make(tmp_path, tmp_path / name, name="other", sample_by="line")) == expected


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("frame", [False, True])
def test_ids_are_the_tokenizers(rows, tmp_path, tokenizer, frame):
    own = GLMTokenizer.from_pretrained(tokenizer)
    plain = [own.text_ids(text) for text in TEXTS]
    encoding = {"tokenizer": tokenizer, "add_special_tokens": frame}
    expected = [own.encode(text, add_special_tokens=frame) for text in TEXTS]
    assert frame or expected == plain
    assert documents(make(tmp_path, rows, encoding=encoding)) == expected
    ended = [ids if ids[-1] == own.eos_token_id and frame else [*ids, own.eos_token_id] for ids in expected]
    found = make(tmp_path, rows, name="ended", encoding=encoding | {"append_eos": True})
    assert documents(found) == ended
    record = read_record(found)
    assert (record["append_eos"], record["add_special_tokens"], record["dtype"]) == (True, frame, "uint16")
    assert record["tokenizer"]["eos_token_id"] == own.eos_token_id


def test_special_tokens_that_a_text_spells(rows, tmp_path):
    own = GLMTokenizer.from_pretrained("glm-4-9b-tiny")
    assert documents(make(tmp_path, rows))[4] == own.text_ids(TEXTS[4])
    found = make(tmp_path, rows, name="split", encoding={"split_special_tokens": True})
    assert documents(found)[4] == own.text_ids(TEXTS[4], split_special_tokens=True)
    assert documents(found)[4] != own.text_ids(TEXTS[4])


@pytest.mark.parametrize(("sample_by", "expected"), [
    ("document", ["a\r\nb\n\n \nc\n\nd"]),
    ("paragraph", ["a\nb", "c", "d"]),
    ("line", ["a", "b", "c", "d"]),
])  # fmt: skip
def test_documents_of_a_text_file(tmp_path, sample_by, expected):
    """Blank lines are documents without ids: left out."""
    path = written(tmp_path / "x.txt", b"\xef\xbb\xbfa\r\nb\n\n \nc\n\nd")
    found = [document.texts[0] for document in Documents([path], ["text"], sample_by)]
    assert [text for text in found if text.strip()] == expected
    own = GLMTokenizer.from_pretrained("chatglm-6b-tiny")
    encoding = {"tokenizer": "chatglm-6b-tiny"}
    assert documents(make(tmp_path, path, sample_by=sample_by, encoding=encoding)) == list(map(own.text_ids, expected))


def test_places_in_a_text_file(tmp_path):
    path = written(tmp_path / "x.txt", "a\n\nb\nc\n\n\nd\n")
    for sample_by, lines in (("document", [1]), ("paragraph", [1, 3, 7]), ("line", [1, 2, 3, 4, 5, 6, 7])):
        found = Documents([path], ["text"], sample_by)
        assert [document.place for document in found] == [f"{path}, line {line}" for line in lines]


def test_empty_documents_are_left_out_and_counted(tmp_path):
    """Also with append_eos: as Megatron, which ends no empty document; it counts them, and an index has more documents
    than sequences then."""
    path = written(tmp_path / "x.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in ("", "a", "", "b", "")))
    found = make(tmp_path, path, encoding={"append_eos": True})
    assert [len(ids) for ids in documents(found)] == [2, 2]
    record = read_record(found)
    assert (record["documents"], record["empty_documents"], record["tokens"]) == (2, 3, 4)


def test_a_data_set_for_each_key(rows, tmp_path):
    make(tmp_path, rows, keys=("title", "text"))
    title, text = (tmp_path / f"out_{key}_document" for key in ("title", "text"))
    assert contents(text) == contents(make(tmp_path, rows, name="other"))
    own = GLMTokenizer.from_pretrained("glm-4-9b-tiny")
    assert documents(title) == [own.text_ids(row["title"]) for row in ROWS]
    assert (read_record(title)["json_key"], read_record(text)["json_key"]) == ("title", "text")


@pytest.mark.parametrize(("characters", "most"), [(1, 1024), (50, 1024), (10**6, 1), (10**6, 7)])
def test_batches_do_not_show(rows, tmp_path, monkeypatch, characters, most):
    expected = contents(make(tmp_path, rows))
    monkeypatch.setattr(tokenized, "_CHARACTERS", characters)
    monkeypatch.setattr(tokenized, "_DOCUMENTS", most)
    assert contents(make(tmp_path, rows, name="other")) == expected


@pytest.mark.process  # multiprocessing starts them
def test_workers_do_not_show(rows, tmp_path, monkeypatch):
    expected = contents(make(tmp_path, rows))
    monkeypatch.setattr(tokenized, "_DOCUMENTS", 2)
    found = make(tmp_path, rows, name="other", workers=4)
    assert contents(found) == expected
    assert read_record(found) == read_record(tmp_path / "out_text_document")


def test_a_folder_is_read_in_natural_order(tmp_path):
    """With the folders in it; hidden files, notes about data and records of this program are no text."""
    folder = tmp_path / "corpus"
    for number in (10, 2, 1):
        written(folder / f"part-{number}.jsonl", LINES[number])
    written(folder / "b" / "more.txt.gz", gzip.compress(TEXTS[3].encode()))
    for name in (".hidden.jsonl", ".cache/x.jsonl", "dataset_info.json", "old_text_document.meta.json", "x.csv"):
        written(folder / name, b"{}")
    names = [path.relative_to(folder).as_posix() for path in input_files([str(folder)])]
    assert names == ["b/more.txt.gz", "part-1.jsonl", "part-2.jsonl", "part-10.jsonl"]
    own = GLMTokenizer.from_pretrained("glm-4-9b-tiny")
    assert documents(make(folder, folder)) == [own.text_ids(TEXTS[number]) for number in (3, 1, 2, 10)]
    make(folder, folder, name="again")  # beside its own output
    pattern = [str(folder / "part-?.*"), str(folder / "b" / "*")]
    assert [path.name for path in input_files(pattern)] == ["part-1.jsonl", "part-2.jsonl", "more.txt.gz"]


GOOD = LINES[0].encode()
WRONG = {
    "no such key": (
        {"x.jsonl": b'{"content": "a", "id": 1}\n'},
        r"x\.jsonl, line 1: field 'text' is missing, the row has content, id; fix the row or pass --skip_bad_rows",
    ),
    "another type": ({"x.jsonl": GOOD + b'\n{"text": 7}\n'}, r"x\.jsonl, line 3: field 'text' is a number, not text"),
    "no text": ({"x.jsonl": GOOD + b'{"text": null}\n'}, r"x\.jsonl, line 2: field 'text' is null, not text"),
    "no row": ({"x.jsonl": GOOD + b"[1]\n"}, r"x\.jsonl, line 2: a row must be an object"),
    "no JSON": ({"x.jsonl": GOOD + b"text\n"}, r"x\.jsonl, line 2: not valid JSON"),
    "not UTF-8": ({"x.jsonl": GOOD + '{"text": "上"}'.encode("gbk")}, r"x\.jsonl, line 2: not UTF-8 \(byte 0xc9\)"),
    "not UTF-8, packed": ({"x.jsonl.gz": gzip.compress(GOOD + b'{"text": "\xc9"}')}, r"x\.jsonl\.gz, line 2: not UTF"),
    "text, not UTF-8": ({"x.txt": b"a\nb\xff"}, r"x\.txt, line 2: not UTF-8 \(byte 0xff\)"),
    "UTF-16": ({"x.txt": "abc".encode("utf-16")}, r"x\.txt is UTF-16, not UTF-8"),
    "cut zst": ({"x.jsonl.zst": zstd(GOOD * 50)[:-3]}, r"x\.jsonl\.zst cannot be unpacked \(Truncated"),
    "cut gz": ({"x.jsonl.gz": gzip.compress(GOOD)[:-3]}, r"x\.jsonl\.gz cannot be unpacked \(.*\): download it again"),
    "not zst": ({"x.jsonl.zst": GOOD}, r"x\.jsonl\.zst cannot be unpacked \("),
    "zst by content": ({"x.jsonl": zstd(GOOD)}, r"x\.jsonl is a \.zst file by its content: give it a name"),
    "git-lfs": ({"x.jsonl": b"version https://git-lfs.github.com/spec/v1\n"}, r"x\.jsonl is a git-lfs pointer"),
    "cut parquet": ({"x.parquet": b"PAR1" + bytes(40)}, r"x\.parquet is damaged or cut short"),
    "a table": ({"x.csv": b"text\na\n"}, r"holds no text: .*x\.csv is not read, save its rows as JSON Lines"),
    "nothing known": ({"x.pdf": b"%PDF"}, r"holds no text: what is read is \.json, "),
    "all empty": ({"x.jsonl": b'{"text": ""}\n'}, r"in: no text for 'text': 1 documents are empty and 0 rows"),
    "no rows": ({"x.jsonl": b"\n"}, r"in: no text for 'text': 0 documents are empty .* pass files with text"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, case):
    files, message = WRONG[case]
    for name, content in files.items():
        written(tmp_path / "in" / name, content)
    with pytest.raises(GLMError, match=message) as error:
        make(tmp_path / "out", tmp_path / "in")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_inputs_that_are_not_there(rows, tmp_path):
    for name in ("corpus.tsv", "corpus"):
        written(tmp_path / name, b"x")
    for given, message in (
        (["gone.jsonl"], "gone.jsonl is no file, no folder and no pattern that matches a file"),
        ([str(tmp_path / "*.parquet")], "is no file, no folder and no pattern that matches a file"),
        ([str(rows), str(tmp_path)], "rows.jsonl is given twice: name each file once"),
        ([str(tmp_path / "corpus.tsv")], r"corpus\.tsv is a \.tsv file, and data is read from"),
        ([str(tmp_path / "corpus")], "corpus is of a kind that is not read: give it the ending"),
    ):
        with pytest.raises(GLMError, match=message):
            input_files(given)
    text = written(tmp_path / "x.txt", b"x")
    with pytest.raises(GLMError, match=r"x\.txt cannot be made \(File exists\): choose another --output_prefix"):
        make(text, rows)
    with pytest.raises(GLMError, match=r"x\.txt is plain text, and has no fields title, text: give one --json_key"):
        make(tmp_path, text, keys=("title", "text"))
    with pytest.raises(GLMError, match=r"out_text_document would be written twice: name each --json_key once"):
        make(tmp_path, rows, keys=("text", "text"))


def test_bad_rows_are_skipped_and_counted(tmp_path):
    bad = b'{"content": "a"}\n{"text": 7}\nno\n{"text": "\xc9"}\n'
    path = written(tmp_path / "x.jsonl", bad + GOOD + bad + LINES[1].encode())
    lines = written(tmp_path / "x.txt", TEXTS[2].encode() + b"\n\xff\n")
    found = make(tmp_path, path, lines, skip_bad_rows=True, sample_by="line")
    own = GLMTokenizer.from_pretrained("glm-4-9b-tiny")
    assert documents(found) == list(map(own.text_ids, TEXTS[:3]))
    assert (read_record(found)["skipped_rows"], read_record(found)["documents"]) == (9, 3)


def test_what_is_there_is_not_replaced_unasked(rows, tmp_path):
    found = make(tmp_path, rows)
    before = contents(found)
    with pytest.raises(GLMError, match=r"out_text_document\.idx exists: pass --overwrite to replace it, or choose"):
        make(tmp_path, rows, encoding={"append_eos": True})
    assert contents(found) == before
    assert contents(make(tmp_path, rows, encoding={"append_eos": True}, overwrite=True)) != before


def test_joined_data_is_one_run(tmp_path):
    parts = [written(tmp_path / f"part{i}.jsonl", "".join(LINES[i * 10 : i * 10 + 10])) for i in range(3)]
    whole = make(tmp_path, *parts, name="whole", encoding={"append_eos": True})
    made = [make(tmp_path, part, name=part.stem, encoding={"append_eos": True}) for part in parts]
    merge(list(map(str, made)), str(tmp_path / "joined"))
    assert contents(tmp_path / "joined") == contents(whole)
    assert read_record(tmp_path / "joined") == read_record(whole)


def test_what_is_not_joined(rows, tmp_path):
    one, other = make(tmp_path, rows), make(tmp_path, rows, name="ended", encoding={"append_eos": True})
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(tmp_path)
    for prefixes, target, message in (
        ([one, other], "x", rf"append_eos is True in {other}, False in {one}: join data that was made in one way"),
        ([one, f"{one}.idx"], "x", "is given twice: name each data set once"),
        ([one, elsewhere / one.name], "x", "is given twice: name each data set once"),
        ([one], one.name, "is one of the data sets to join: choose another --output_prefix"),
        ([elsewhere / one.name], one.name, "is one of the data sets to join: choose another --output_prefix"),
        ([one, tmp_path / "gone"], "x", r"gone\.idx does not exist"),
    ):
        with pytest.raises(GLMError, match=message):
            merge(list(map(str, prefixes)), str(tmp_path / target))
    assert not list(tmp_path.glob("x*"))
    (tmp_path / "out_text_document.meta.json").unlink()  # as Megatron leaves it
    report = merge([str(one), str(other)], str(tmp_path / "x"))
    assert report.notes and "nothing is known of their tokenizer" in report.notes[0]
    assert read_record(tmp_path / "x") is None and len(IndexedDataset(tmp_path / "x")) == 60


def test_what_is_counted(tmp_path):
    """Of two keys: documents, texts in UTF-8 however the file is packed, and ids."""
    path = written(tmp_path / "x.jsonl.zst", zstd(JSONL))
    report = preprocess(
        Preprocessing([str(path)], str(tmp_path / "x"), EncodingOptions("glm-4-9b-tiny"), ["text", "title"])
    )
    assert report.bytes == sum(len((row["text"] + row["title"]).encode()) for row in ROWS)
    assert (report.files, report.documents, report.empty, report.skipped) == (1, 60, 0, 0)
    assert report.tokens == sum(IndexedDataset(prefix).token_count for prefix in report.prefixes)
    assert 0 < report.seconds < 60


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    preprocess(Preprocessing([str(rows)], str(tmp_path / "x"), EncodingOptions("glm-4-9b-tiny")), show_progress=True)
    form = r"tokenize: 100%\|.*\| 1\.\d\dk/1\.\d\dkB \[\S+, \d+\.\d\d MB/s, [\d,]+ documents/s\]"
    assert re.search(form, sys.stderr.getvalue()), sys.stderr.getvalue()


def test_memory_does_not_grow_with_a_file(tmp_path):
    """16 MB of rows, packed to a few kilobytes."""
    line = json.dumps({"text": "云溪桥 " * 100}).encode() + b"\n"
    paths = [written(tmp_path / "x.jsonl.gz", gzip.compress(line * 8000)), tmp_path / "x.parquet"]
    parquet.write_table(pyarrow.table({"text": ["云溪桥 " * 100] * 8000}), paths[1], row_group_size=1000)
    for path in paths:
        told = []
        tracemalloc.start()
        count = sum(1 for _ in Documents([path], ["text"], progress=told.append))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 8000 and peak < 6_000_000, (path, peak)
        assert sum(told) == path.stat().st_size

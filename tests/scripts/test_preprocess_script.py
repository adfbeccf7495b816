"""preprocess_data.py as a user runs it: raw text in, Megatron's and PaddleNLP's files out, all or nothing."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SURROUNDINGS
from paddlenlp.data.indexed_dataset import MMapIndexedDataset

from glm.datasets.indexed import IndexedDataset
from glm.tokenizers import GLMTokenizer

SCRIPT = "preprocess_data.py"
CORPUS = ROOT / "data" / "pretrain"
TINY = ["--model_name_or_path", "glm-4-9b-tiny"]


def contents(prefix: Path) -> list[bytes]:
    return [prefix.with_name(prefix.name + ending).read_bytes() for ending in (".bin", ".idx")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def made(run, tmp_path_factory) -> Path:
    """The bundled text as indexed data."""
    folder = tmp_path_factory.mktemp("indexed")
    words = ["--input", CORPUS, "--output_prefix", folder / "own", *TINY, "--append_eos", "--log_interval", "100"]
    result = run(SCRIPT, *words)
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert len(lines) in (1, 2) and lines[-1].startswith("228 documents, 100 %: ")
    for word in ("files", "228", "tokens", "(uint16)", "MB/s", "documents/s", "own_text_document.bin and .idx"):
        assert word in result.out
    assert names(folder) == ["own_text_document.bin", "own_text_document.idx", "own_text_document.meta.json"]
    return folder / "own_text_document"


def test_paddlenlp_reads_what_was_written(made):
    own, theirs = IndexedDataset(made), MMapIndexedDataset(str(made), skip_warmup=True)
    tokenizer = GLMTokenizer.from_pretrained("glm-4-9b-tiny")
    rows = [json.loads(line) for file in sorted(CORPUS.glob("*.jsonl")) for line in file.open(encoding="utf-8")]
    assert len(own) == len(theirs) == len(rows) == 228
    for number in range(0, 228, 9):
        ids = [*tokenizer.text_ids(rows[number]["text"]), tokenizer.eos_token_id]
        assert own[number].tolist() == theirs[number].tolist() == ids


@pytest.mark.parametrize(
    "words",
    [
        "--input {corpus} --tokenizer-type PretrainedFromHF --tokenizer-name-or-path glm-4-9b-tiny "
        "--output-prefix {out} --workers 1 --log-interval 1000 --append-eod --json-keys text",
        "--input_path {corpus} --tokenizer_name glm-4-9b-tiny --output_prefix {out} --workers 1 --append_eos "
        "--data_impl mmap --data_format JSON --json_key text",
    ],
    ids=["Megatron's", "PaddleNLP's"],
)
def test_flags_of_others(run, made, tmp_path, words):
    result = run(SCRIPT, *words.format(corpus=CORPUS, out=tmp_path / "o").split())
    assert result.code == 0, result.err
    assert contents(tmp_path / "o_text_document") == contents(made)


def test_parts_tokenized_by_several_processes_are_joined(run, made, tmp_path):
    """The second command of docs/indexed_data.md, and --merge."""
    for number, file in enumerate(sorted(CORPUS.glob("*.jsonl"))):
        words = ["--input", file, "--output_prefix", tmp_path / f"p{number}", *TINY, "--append_eos", "--workers"]
        result = run(SCRIPT, *words, 1 + number % 2)
        assert result.code == 0, result.err
    parts = [tmp_path / f"p{number}_text_document" for number in range(3)]
    joined = run(SCRIPT, "--merge", *parts, "--output_prefix", tmp_path / "all")
    assert joined.code == 0, joined.err
    assert contents(tmp_path / "all") == contents(made)
    record = json.loads((tmp_path / "all.meta.json").read_text("utf-8"))
    assert record == json.loads(made.with_name(f"{made.name}.meta.json").read_text("utf-8"))
    assert record["append_eos"] is True and record["tokens"] == IndexedDataset(made).token_count


def test_every_command_of_the_guide_runs(run, tmp_path, monkeypatch):
    """docs/indexed_data.md, from a folder of text on."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("云溪桥建于1920年。", encoding="utf-8")
    (tmp_path / "corpus" / "b.jsonl").write_text('{"title": "b", "text": "A bridge."}\n', encoding="utf-8")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.jsonl").write_text('{"title": "c", "text": "A tower."}\n', encoding="utf-8")
    text = (ROOT / "docs" / "indexed_data.md").read_text("utf-8").replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith(f"python {SCRIPT} ")]
    assert len(commands) == 4
    for command in commands:
        result = run(*shlex.split(command)[1:], cwd=tmp_path)
        assert result.code == 0, (command, result.err)
    tokens = [IndexedDataset(tmp_path / "data" / name).token_count for name in ("corpus_text_document", "all")]
    assert 0 < tokens[0] < tokens[1]
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```py\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    exec(block, values := {})
    assert len(values["data"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--input", "x.jsonl"], 2, "--input needs --model_name_or_path: whose tokenizer to use"),
        ([*TINY], 2, "pass either --input, text to tokenize, or --merge, data sets to join"),
        (["--input", "x.jsonl", "--merge", "y", *TINY], 2, "pass either --input, text to tokenize, or --merge"),
        (["--input", "x.jsonl", *TINY, "--workers", "0"], 2, "'0' is not a number from 1 on"),
        (
            ["--input", "x.jsonl", *TINY, "--output_prefix", "out/"],
            2,
            "out/ is a folder: add the begin of a name, out/c",
        ),
        (["--input", "x.jsonl", *TINY, "--apend_eos"], 2, "did you mean --append_eos?"),
        (
            ["--input", "x.jsonl", *TINY, "--tokenizer-type", "GPT2BPETokenizer"],
            2,
            "invalid choice: 'GPT2BPETokenizer'",
        ),
        (["--input", "x.jsonl", "--model_name_or_path", "nowhere"], 1, "nowhere"),
        (["--input", "gone/", *TINY], 1, "gone/ is no file, no folder and no pattern that matches a file"),
        (["--input", "x.jsonl", *TINY], 1, "x.jsonl, line 2: field 'text' is missing, the row has content; fix"),
        (["--input", "x.jsonl", *TINY, "--workers", "2"], 1, "x.jsonl, line 2: field 'text' is missing"),
        (["--merge", "gone"], 1, "gone.idx does not exist: pass the path of {prefix}.bin and {prefix}.idx without"),
        (["--merge", "cut"], 1, "cut.bin has 9 bytes, cut.idx describes 12: copy both files again"),
    ],
)
def test_errors_are_one_line(run, tmp_path, words, code, message):
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"content": "b"}\n')
    (tmp_path / "cut.bin").write_bytes(bytes(9))
    index = b"MMIDIDX\0\0" + b"\1" + bytes(7) + b"\4" + b"\1" + bytes(7) + b"\2" + bytes(7) + b"\3\0\0\0" + bytes(16)
    (tmp_path / "cut.idx").write_bytes(index + b"\1" + bytes(7))
    result = run(SCRIPT, *([] if "--output_prefix" in words else ["--output_prefix", "out/o"]), *words, cwd=tmp_path)
    assert (result.code, result.out) == (code, "")
    assert result.error.startswith("error: ") and message in result.error
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == []


def start(*words, limit: int = 0) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / SCRIPT), *map(str, words)]
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.Popen(
        command, env=os.environ | SURROUNDINGS, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=before
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """17 MB, which take a moment."""
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    path.write_bytes(b"".join(file.read_bytes() for file in sorted(CORPUS.glob("*.jsonl"))) * 40)
    return path


def children(process: int) -> list[int]:
    """The numbers of the processes that one started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize(
    ("how", "workers"),
    [pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow), (signal.SIGKILL, 2), (signal.SIGINT, 2)],
)
def test_a_run_that_is_ended_leaves_nothing(run, large, tmp_path, how, workers):
    words = ["--input", large, "--output_prefix", tmp_path / "o", "--workers", workers]
    with start(*words, "--model_name_or_path", "glm-4-9b-0414-tiny") as process:
        while not any(path.stat().st_size for path in tmp_path.glob(".*/.bin")) and process.poll() is None:
            time.sleep(0.002)
        started = children(process.pid)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == (-how if how == signal.SIGKILL else 130), errors
    left = names(tmp_path)
    assert [name for name in left if not name.startswith(".o_text_document.idx.tmp-")] == []
    assert how == signal.SIGKILL or left == []
    deadline = time.monotonic() + 20
    while any(map(alive, started)):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.01)
    again = run(SCRIPT, "--input", CORPUS, "--output_prefix", tmp_path / "o", *TINY)
    assert again.code == 0, again.err
    assert names(tmp_path) == ["o_text_document.bin", "o_text_document.idx", "o_text_document.meta.json"]


def alive(process: int) -> bool:
    """Whether it runs; what has ended and nobody waited for is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_full_disk_leaves_what_was_there(run, made, tmp_path):
    """A limit of file sizes stands for it: the write fails in the middle."""
    small = run(SCRIPT, "--input", CORPUS / "code.jsonl", "--output_prefix", tmp_path / "o", *TINY)
    assert small.code == 0, small.err
    before = contents(tmp_path / "o_text_document")
    words = ["--input", CORPUS, "--output_prefix", tmp_path / "o", *TINY, "--overwrite"]
    with start(*words, limit=300_000) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert "o_text_document.idx was not written (File too large)" in errors.decode()
    assert "make room or choose another directory" in errors.decode()
    assert contents(tmp_path / "o_text_document") == before
    assert names(tmp_path) == ["o_text_document.bin", "o_text_document.idx", "o_text_document.meta.json"]


def test_help_shows_examples(run):
    result = run(SCRIPT, "--help")
    assert result.code == 0
    for word in ("python preprocess_data.py --input", "--merge", "--append-eod", ".meta.json", "parquet", ".zst"):
        assert word in result.out

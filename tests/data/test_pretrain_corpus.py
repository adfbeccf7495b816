"""The bundled text to pretrain on: reproducible, in two languages and code, one row a section or a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "pretrain"
FILES = {"docs_en.jsonl": 120, "docs_zh.jsonl": 83, "code.jsonl": 25}
sys.path.insert(0, str(ROOT / "tools"))

from make_pretrain_corpus import REVISION, sections  # noqa: E402


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def test_the_script_writes_the_bundled_bytes(tmp_path):
    known = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", REVISION], capture_output=True)
    if known.returncode:
        pytest.skip(f"this checkout's history has no commit {REVISION[:8]}")
    command = [sys.executable, str(ROOT / "tools" / "make_pretrain_corpus.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name


@pytest.mark.parametrize("name", FILES)
def test_rows_are_whole_texts_with_their_source(name):
    found = rows(name)
    assert len(found) == FILES[name]
    for row in found:
        assert list(row) == ["text", "source"]
        assert row["text"].strip() and row["text"].endswith("\n")
        assert row["source"].endswith(".py" if name == "code.jsonl" else ".md")
    assert len({row["text"] for row in found}) == len(found)


def test_both_languages_are_there():
    chinese = {name: sum("\u4e00" <= c <= "\u9fff" for row in rows(name) for c in row["text"]) for name in FILES}
    assert chinese["docs_zh.jsonl"] > 10_000 and chinese["docs_en.jsonl"] < 1_000


def test_a_page_is_cut_at_its_headings_only():
    page = "# Page\nfirst\n\n## One\n```\n## not a heading\n```\n### inside\n\n## Two\nlast\n"
    parts = sections(page)
    assert "".join(parts) == page
    assert [part.splitlines()[0] for part in parts] == ["# Page", "## One", "## Two"]

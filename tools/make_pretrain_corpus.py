"""Write the bundled text to pretrain on: this project's own documentation, English and Chinese, and its own code.

    python tools/make_pretrain_corpus.py [--revision COMMIT] [--output DIR]

What is read is the repository as it was at a commit, not as it lies there: the same commit gives the same bytes. A row
is a section of a page (`## …`) or a file of code, with its source beside it.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from glm.files.atomic import write_bytes  # noqa: E402

REVISION = "fc34d8285f37c3facd5a662f5c368c4ea12344a7"
# File -> what it is made of; a folder's own files alone.
PARTS = {
    "docs_en.jsonl": ("README.md", "data/README.md", "docs/*.md"),
    "docs_zh.jsonl": ("README_zh.md", "docs/zh/*.md"),
    "code.jsonl": ("glm/model/*.py", "glm/generation/*.py", "glm/files/*.py"),
}
SECTION = re.compile(r"^(?=## )", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True).stdout


def files_of(revision: str, patterns: tuple[str, ...]) -> list[str]:
    names = git("ls-tree", "-r", "--name-only", "-z", revision).split("\0")
    wanted = [re.compile(re.escape(pattern).replace(r"\*", "[^/]*")) for pattern in patterns]
    return sorted(name for name in names if any(pattern.fullmatch(name) for pattern in wanted))


def documents(name: str, text: str) -> Iterator[dict[str, str]]:
    """The rows of a file: sections of a page, or a file of code as a whole."""
    for part in sections(text) if name.endswith(".md") else [text]:
        if part.strip():
            yield {"text": part.strip() + "\n", "source": name}


def sections(text: str) -> list[str]:
    """The text cut before each heading of the second level; a `## ` inside a block of code is none."""
    fences = [match.span() for match in FENCE.finditer(text)]
    starts = [match.start() for match in SECTION.finditer(text)]
    starts = [start for start in starts if not any(begin < start < end for begin, end in fences)]
    return [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revision", default=REVISION, help="commit to read")
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "pretrain", help="folder to write to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for file, patterns in PARTS.items():
        names = files_of(arguments.revision, patterns)
        rows = [row for name in names for row in documents(name, git("show", f"{arguments.revision}:{name}"))]
        rows = list({row["text"]: row for row in reversed(rows)}.values())[::-1]  # two pages share a section
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(arguments.output / file, lines.encode("utf-8"))
        print(f"{arguments.output / file}: {len(rows)} documents, {len(lines.encode('utf-8')):,} bytes")


if __name__ == "__main__":
    main()

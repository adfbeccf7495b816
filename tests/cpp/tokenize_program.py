"""The program `tokenize` of the C++ tests, asked about a bundled or a published vocabulary."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cpp_texts import DATA
from shared_files import SHARED

from glm.encoding.processor import Processor, open_processor
from glm.export.tokenizer_file import NAME, tokenizer_file

TINY = {
    kind: DATA / f"{kind}-tiny" for kind in ("chatglm", "chatglm2", "chatglm3", "glm4", "glm4-0414", "glm45", "glm47")
} | {"glm-chinese": DATA / "glm-tiny-chinese"}
# The published vocabularies that there are.
REAL = {"glm-chinese": "cog-pretrain.model", "chatglm": "ice_text.model"}
NAMES = (*TINY, *(f"real {kind}" for kind in REAL))
Ask = Callable[[list[dict]], list[dict]]


def tokenize_program(name: str, folder: Path, programs: Path) -> tuple[Processor, Ask]:
    """A processor, and what asks the same of C++; skips where a published vocabulary is not there."""
    if name in TINY:
        shutil.copytree(TINY[name], folder, dirs_exist_ok=True)
    else:
        file = SHARED / "real" / "tokenizers" / REAL[name.removeprefix("real ")]
        if not file.is_file():
            pytest.skip(f"{file} is not there")
        shutil.copy(file, folder)
    processor = open_processor(folder)
    (folder / NAME).write_bytes(tokenizer_file(processor))

    def ask(questions: list[dict]) -> list[dict]:
        lines = "".join(json.dumps(each) + "\n" for each in questions)
        run = subprocess.run([programs / "tokenize", folder], input=lines, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stderr
        return [json.loads(line) for line in run.stdout.strip("\n").split("\n")]

    return processor, ask

"""Packing from the command line: what docs/finetuning.md shows, with both scripts, full and LoRA."""

import json
import re
from pathlib import Path

import pytest
from commands import ROOT, SHORT, TINY, commands_of


def shown() -> list[list[str]]:
    """The page's commands that pack, as words without the interpreter."""
    page = (ROOT / "docs/finetuning.md").read_text("utf-8")
    return [words for words in commands_of(page) if "--packing" in words]


def results(output: Path) -> dict:
    return json.loads((output / "train_results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("number", [0, 1])
def test_the_pages_commands(run, tmp_path, number):
    """Two steps of each, in a directory of its own; every start and every result says how full the packs are."""
    words = shown()[number]
    done = run(words[0], *words[1:], "--max_steps", "2", cwd=tmp_path)
    assert done.code == 0, done.err
    rows, length, share = map(
        float, re.search(r"train: (\d+) rows in \d+ packs of (\d+) tokens, ([\d.]+)%", done.err).groups()
    )
    assert rows in (2000, 4000) and length == float(words[words.index("--max_length") + 1]) and share > 95
    found = results(tmp_path / words[words.index("--output_dir") + 1])
    assert found["train_real_token_share"] > 0.95
    tokens = found["train_tokens_per_second"] / found["train_samples_per_second"]
    assert tokens == pytest.approx(length * share / 100, rel=0.05)  # of a pack


def test_both_scripts_are_shown():
    assert sorted(words[0] for words in shown()) == ["finetune_generation.py", "finetune_instruction_generation.py"]
    assert ["--lora" in words for words in shown()].count(True) == 1


WRONG = {
    "unpacked": (
        ["--max_length", "128"],
        "error: max_length is 128, and is the length of a pack: pass --packing True, or",
    ),
    "none": (["--packing", "True", "--max_length", "0"], "error: max_length is 0, and must be at least 1"),
    "long": (["--packing", "True", "--max_length", "40"], "rows are longer than max_length 40, the longest has "),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lengths(run, rows, tmp_path, name):
    """One line, and nothing is written."""
    flags, message = WRONG[name]
    output = tmp_path / "out"
    where = ["--model_name_or_path", TINY, "--data_path", rows, "--output_dir", output]
    done = run("finetune_generation.py", *where, "--do_train", *SHORT, *flags)
    assert done.code == 2 and message in done.error
    assert not list(output.glob("**/*.safetensors"))

"""--help of every script, as a user reads it."""

import re

import pytest
from commands import ROOT

SCRIPTS = sorted(path.name for path in ROOT.glob("*_generation*.py"))


def test_help_of_the_training_flags(run):
    """What they do here, where PaddleNLP's own text says another thing or nothing."""
    text = " ".join(run("finetune_generation.py", "--help").out.split())
    assert "Start anew, and remove the checkpoints" in text and "Use this to continue training" not in text
    assert "left out, the newest one of output_dir" in text
    assert "glm-4-9b-chat-tiny, …; the README lists all" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(run, script):
    result = run(script, "--help")
    assert result.code == 0, result.err
    assert result.err == ""
    assert result.out.startswith(f"usage: {script}")
    assert f"  python {script} " in result.out
    assert "--debug" in result.out
    flags = re.findall(r"^  (--\w+)", result.out, flags=re.MULTILINE)
    assert len(flags) > 3

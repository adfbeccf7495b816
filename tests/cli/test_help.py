"""--help: quick, because nothing heavy is imported for it, and true of what the parsers know."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from paddlenlp.trainer import TrainingArguments

from glm.training.arguments import GLMTrainingArguments, parse_arguments
from glm.training.flags import (
    MOST_USED,
    DataArguments,
    DecodeArguments,
    InstructionDataArguments,
    ModelArguments,
    TrainingFlags,
    help_parser,
)
from glm.training.preference_flags import PreferenceArguments, PreferenceDataArguments, PreferenceModelArguments
from glm.training.pretrain_flags import PretrainDataArguments, PretrainModelArguments, ScheduleArguments

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
MODULES = ["glm.device", "glm.memory", "glm.distributed.rank_table"]
CLASSES = (InstructionDataArguments, DecodeArguments, ModelArguments)
HELP = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv, out = [name, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            if name.endswith(".py"):
                runpy.run_path(name, run_name="__main__")
            else:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        heavy = [module for module in ("paddle", "paddlenlp", "onnxruntime") if module in sys.modules]
        print(name, end.code, "usage:" in out.getvalue(), heavy)
"""


def test_help_imports_no_framework():
    """Which take seconds: 5 to 7 for PaddleNLP alone."""
    command = [sys.executable, "-c", HELP, *SCRIPTS, *MODULES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert len(SCRIPTS) == 11
    assert done.stdout.splitlines() == [f"{name} 0 True []" for name in (*SCRIPTS, *MODULES)], done.stderr


def shown(text: str) -> set[str]:
    return set(re.findall(r"^  (?:-\w, )?--(\w+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    "classes",
    [
        (DataArguments, DecodeArguments, ModelArguments),
        (InstructionDataArguments, DecodeArguments, ModelArguments),
        (PretrainDataArguments, PretrainModelArguments, ScheduleArguments),
        (PreferenceDataArguments, PreferenceArguments, PreferenceModelArguments),
    ],
    ids=lambda classes: classes[0].__name__,
)
def test_help_shows_every_flag_of_this_project(classes):
    classes = (*classes, TrainingFlags)
    own = {each.name for kind in classes for each in fields(kind)}
    text = help_parser(classes, "Train.").format_help()
    assert shown(text) == own | MOST_USED.keys() | {"help", "help_all"}
    length = 1024 if "split" in own else 2048 if "beta" in own else 608
    assert "{safetensors,pdparams}" in text and f"(default: {length})" in text


def test_the_most_used_are_paddlenlps():
    """Their names and defaults, and none of them means something else here."""
    theirs = {each.name: each.default for each in fields(TrainingArguments)}
    assert {name: default for name, (default, _) in MOST_USED.items()} == {name: theirs[name] for name in MOST_USED}
    assert not MOST_USED.keys() & {each.name for each in fields(TrainingFlags)}


def test_help_all_shows_the_rest(capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments((*CLASSES, GLMTrainingArguments), "Train.", ["--help_all"])
    assert end.value.code == 0
    found = shown(capsys.readouterr().out)
    everything = {each.name for kind in (*CLASSES, GLMTrainingArguments) for each in fields(kind)}
    assert everything <= found | {"r"}
    assert len(everything - MOST_USED.keys()) > 100


def test_the_flags_of_a_run_are_those_of_both():
    """This project's word counts where both have a flag."""
    ours = {each.name: each.default for each in fields(GLMTrainingArguments)}
    assert ours.keys() == {each.name for kind in (TrainingArguments, TrainingFlags) for each in fields(kind)}
    assert all(ours[each.name] == each.default for each in fields(TrainingFlags))

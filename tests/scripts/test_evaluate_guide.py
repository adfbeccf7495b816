"""docs/evaluation.md: its commands on bundled questions, as they stand there, and what it says of prompts."""

import json
import re
import sys

import pytest
from commands import ROOT, commands_of, run_guide

from glm.datasets.multiple_choice.benchmarks import BENCHMARKS, Question
from glm.evaluation.multiple_choice.answers import answered_letter
from glm.evaluation.multiple_choice.prompts import form_of

TEXT = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")


def commands() -> list[list[str]]:
    """Words without the interpreter; test_evaluate_ranks.py runs the launched one, test_harness_lm.py the harness's."""
    return [words for words in commands_of(TEXT) if words[0] not in ("-m", "install")]


@pytest.mark.long
def test_every_command_runs(run, tmp_path):
    output, _ = run_guide(run, commands(), tmp_path)
    found = {
        path.parent.name: json.loads(path.read_text("utf-8"))["total"]["question_n"]
        for path in output.glob("*/results.json")
    }
    assert found == {
        "mmlu-glm-4-9b-chat-tiny": 40,
        "ceval-glm-4-9b-chat-tiny": 20,
        "mmlu-glm-4-9b-chat-tiny-generate": 10,
        "mmlu-exam-export": 40,
    }


@pytest.mark.parametrize("language", ["", "zh/"])
def test_the_headers_and_endings_are_those_of_the_code(language):
    text = (ROOT / "docs" / f"{language}evaluation.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)`[^|]* \| `([^`]+)`[^|]* \| `\"([^`]+)\"` \|$", text, flags=re.MULTILINE)
    subjects = {"mmlu": "high_school_physics", "ceval": "high_school_physics", "cmmlu": "agronomy"}
    question = Question("0", "q", ("a", "b", "c", "d"), "A")
    assert [name for name, *_ in rows] == list(BENCHMARKS)
    for name, header, ending, letter in rows:
        form = form_of(BENCHMARKS[name])
        assert form.shared(BENCHMARKS[name].title(subjects[name]), ()) == f"{header}\n\n"
        assert form.question(question).endswith(f"\nD. d\n{ending}") and form.target("A") == letter


@pytest.mark.parametrize("language", ["", "zh/"])
def test_the_examples_of_the_rules(language):
    text = (ROOT / "docs" / f"{language}evaluation.md").read_text("utf-8")
    rules = re.findall(r"^\d\. .*", text, flags=re.MULTILINE)
    examples = [each for rule in rules for each in re.findall(r"`([^`]+)`", rule)]
    assert len(rules) == 3 and len(examples) == 11
    assert {each: answered_letter(each) for each in examples if answered_letter(each) != "B"} == {"ANSWER: Because": ""}

"""The letter of a generated text: what counts, in which order, and what is none."""

import inspect

import pytest

from glm.evaluation.multiple_choice.answers import answered_letter

FOUND = {
    "ANSWER: B": "B",
    "Answer : c": "C",
    "I thought of A.\nanswer:D": "D",
    "ANSWER: A, no.\nANSWER: B": "B",
    "先看 A 项。\n答案：C": "C",
    "**Answer:** (C)": "C",
    "**ANSWER: D**": "D",
    "Answer: $B$": "B",
    "The answer is D.": "D",
    "答案是：C": "C",
    "答案是 **B**": "B",
    "答案为A。": "A",
    "正确答案应该是D": "D",
    "因此选择A": "A",
    "故选 B。": "B",
    "正确选项是C": "C",
    r"\boxed{D}": "D",
    r"$\boxed{\text{A}}$": "A",
    "B": "B",
    " (C) foo": "C",
    "D. 12 cm": "D",
    "B）十二": "B",
    "**A**": "A",
}
NONE = [
    "",
    "I do not know.",
    "A man walks.",
    "Because",
    "the answer is a dog",
    "ANSWER: Because",
    "不选A",
    "b",
    "E",
    "AB",
]


@pytest.mark.parametrize(("text", "letter"), FOUND.items())
def test_a_letter(text, letter):
    assert answered_letter(text) == letter


@pytest.mark.parametrize("text", NONE)
def test_no_letter(text):
    assert answered_letter(text) == ""


def test_the_asked_form_wins():
    """Over the looser rules, wherever these find something."""
    assert answered_letter("ANSWER: B\nThe answer is C") == "B"
    assert answered_letter("A. first.\nThe answer is C") == "C"


def test_the_right_answer_is_not_known():
    assert list(inspect.signature(answered_letter).parameters) == ["text"]

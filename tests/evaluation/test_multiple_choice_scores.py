"""Averages of a run, and the picture of them."""

import pytest

from glm.datasets.multiple_choice.benchmarks import BENCHMARKS, Question, Subject
from glm.evaluation.multiple_choice.picture import NAME, draw_subjects
from glm.evaluation.multiple_choice.run import answer_all, units_of
from glm.evaluation.multiple_choice.scores import Scores
from glm.evaluation.replica import Replica

MMLU, CMMLU = BENCHMARKS["mmlu"], BENCHMARKS["cmmlu"]


def records(subject: str, right: int, wrong: int, shots: int | None = 5, letter: str = "B") -> list[dict]:
    made = [{"subject": subject, "id": "0", "answer": "A", "shots": shots}]
    return [each | {"letter": "A"} for each in made * right] + [each | {"letter": letter} for each in made * wrong]


def test_micro_and_macro_averages():
    found = Scores.of(MMLU, records("anatomy", 3, 1) + records("astronomy", 1, 9), 5)
    assert (found.total.correct, found.total.question_n) == (4, 14)
    assert found.total.acc == pytest.approx(4 / 14)
    assert found.macro == pytest.approx((3 / 4 + 1 / 10) / 2)
    assert {name: each.to_json() for name, each in found.categories.items()} == {
        "STEM": {"question_n": 10, "correct": 1, "acc": 0.1},
        "other": {"question_n": 4, "correct": 3, "acc": 0.75},
    }
    assert found.notes == {}


def test_a_subject_of_two_categories_and_one_of_none():
    found = Scores.of(CMMLU, records("chinese_history", 1, 0) + records("mine", 0, 1), 5)
    assert {name: each.question_n for name, each in found.categories.items()} == {
        "Humanities": 1,
        "China specific": 1,
        "not listed": 1,
    }
    assert found.total.question_n == 2


def test_what_happened_to_questions():
    some = records("anatomy", 1, 0, shots=3) + records("anatomy", 0, 2, shots=None, letter="")
    found = Scores.of(MMLU, some + records("anatomy", 0, 1, letter=""), 5)
    some[0]["scores"] = [-2.0, -1.0, -1.0, -3.0]
    assert Scores.of(MMLU, some, 5).notes["answered with the first of equally likely letters"] == 1
    assert found.notes == {
        "asked with fewer shots": 1,
        "too long for the model": 2,
        "answered without a letter": 1,
    }
    assert found.total.acc == 1 / 4  # all of them count


def test_units_are_of_one_subject():
    questions = tuple(Question(str(i), "q", ("a",) * 4, "A") for i in range(65))
    units = units_of([Subject("a", (), questions), Subject("b", (), questions[:2])], 64)
    assert [(unit.subject.name, len(unit.questions)) for unit in units] == [("a", 64), ("a", 1), ("b", 2)]


class Kept:
    """What `answer_all` needs of a journal."""

    def __init__(self):
        self.records = []

    def append(self, records):
        self.records += records


class Answering:
    def answers(self, subject, questions):
        yield from ({"subject": subject.name, "id": each.id, "answer": "A", "letter": "A"} for each in questions)


def test_answers_behind_those_that_are_there():
    questions = tuple(Question(str(i), "q", ("a",) * 4, "A") for i in range(131))
    units, kept = units_of([Subject("a", (), questions)], 64), Kept()
    answer_all(units, 1, Answering(), kept, Replica(), show_progress=False)
    assert [record["id"] for record in kept.records] == [str(i) for i in range(64, 131)]


def test_the_picture(tmp_path):
    found = Scores.of(MMLU, records("anatomy", 3, 1) + records("astronomy", 1, 9), 5)
    draw_subjects(MMLU, found, "a title", tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes().startswith(b"\x89PNG")

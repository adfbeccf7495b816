"""Prompts of the benchmarks, character by character, and which of them a model gets."""

from pathlib import Path

import pytest

from glm.datasets.multiple_choice.benchmarks import BENCHMARKS, Question, Subject
from glm.encoding.chat_formats import chat_format
from glm.encoding.processor import ChatProcessor
from glm.evaluation.likelihood import ContextTooLong, Likelihood
from glm.evaluation.multiple_choice.examinees import ByLikelihood, ByText, in_order
from glm.evaluation.multiple_choice.prompts import asked, conversation, form_of
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"

SHOT = Question("0", "Is it?\n", ("yes", "no", "None", ""), "C")
ASKED = Question("1", " 1 + 1? ", ("1", "2", "3", "4"), "B")
SUBJECT = Subject("high_school_physics", (SHOT,) * 2, (ASKED,))
# (benchmark, form, subject) → the text before the letter, and the letter's own text.
GOLDEN = {
    ("mmlu", "original", "high_school_physics"): (
        "The following are multiple choice questions (with answers) about  high school physics.\n\n"
        "Is it?\n\nA. yes\nB. no\nC. None\nD. \nAnswer: C\n\n 1 + 1? \nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
        " B",
    ),
    ("mmlu", "lm_eval", "high_school_physics"): (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Is it?\nA. yes\nB. no\nC. None\nD. \nAnswer: C\n\n1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
        " B",
    ),
    ("ceval", "original", "high_school_physics"): (
        "以下是中国关于高中物理考试的单项选择题，请选出其中的正确答案。\n\n"
        "Is it?\n\nA. yes\nB. no\nC. None\nD. \n答案：C\n\n 1 + 1? \nA. 1\nB. 2\nC. 3\nD. 4\n答案：",
        "B",
    ),
    ("ceval", "lm_eval", "high_school_physics"): (
        "以下是中国关于高中物理的单项选择题，请选出其中的正确答案。\n\n"
        "Is it?\nA. yes\nB. no\nC. None\nD. \n答案： C\n\n1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\n答案：",
        " B",
    ),
    ("cmmlu", "original", "agronomy"): (
        "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n"
        "题目：Is it?\n\nA. yes\nB. no\nC. None\nD. \n答案是：C\n\n"
        "题目： 1 + 1? \nA. 1\nB. 2\nC. 3\nD. 4\n答案是：",
        "B",
    ),
    ("cmmlu", "lm_eval", "own_subject"): (
        "以下是关于own subject的单项选择题，请直接给出正确答案的选项。\n\n"
        "Is it?\nA. yes\nB. no\nC. None\nD. \n答案： C\n\n1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\n答案：",
        " B",
    ),
}


@pytest.mark.parametrize(("name", "form", "subject"), GOLDEN)
def test_prompts(name, form, subject):
    benchmark = BENCHMARKS[name]
    found = form_of(benchmark, form)
    text = found.shared(benchmark.title(subject), (SHOT,)) + found.question(ASKED)
    assert (text, found.target("B")) == GOLDEN[name, form, subject]


def test_the_letters_of_the_chinese_benchmarks_stand_alone():
    """As their own code encodes them; lm_eval encodes all letters with the text."""
    alone = [(name, form) for name, form, _ in GOLDEN if form_of(BENCHMARKS[name], form).alone]
    assert alone == [("ceval", "original"), ("cmmlu", "original")]
    for name, _ in alone:
        scorer = Counting(1000)
        list(ByLikelihood(scorer, BENCHMARKS[name], form_of(BENCHMARKS[name])).answers(SUBJECT, SUBJECT.questions))
        assert scorer.seen[0].alone and scorer.seen[0].targets == tuple("ABCD")


def test_what_a_chat_model_is_asked():
    text = asked(BENCHMARKS["mmlu"], Question("0", "{A} or $LETTER?", ("{B}", "b", "c", "d"), "A"))
    assert text.startswith("Answer the following multiple choice question. The last line")
    assert "'ANSWER: $LETTER' (without quotes)" in text
    assert text.endswith("\n\n{A} or $LETTER?\n\nA) {B}\nB) b\nC) c\nD) d")
    turns = conversation(BENCHMARKS["ceval"], SUBJECT, ASKED, 1)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == "答案：C" and turns[2]["content"] == asked(BENCHMARKS["ceval"], ASKED)


class Counting:
    """A scorer that finds the letters the likelier the later they stand, with room for so many characters."""

    window, tokens_read = 64, 0

    def __init__(self, room: int):
        self.room, self.seen = room, []

    def check(self, row) -> None:
        if len(row.context) > self.room:
            raise ContextTooLong(len(row.context), self.room, row.context)

    def __call__(self, rows):
        self.seen += rows
        for row in rows:
            self.check(row)
            yield tuple(Likelihood(-4.0 + place, 1, place == 3) for place in range(len(row.targets)))


def answered(room: int, questions=(ASKED,)):
    scorer = Counting(room)
    subject = Subject(SUBJECT.name, SUBJECT.shots, tuple(questions))
    examinee = ByLikelihood(scorer, BENCHMARKS["mmlu"], form_of(BENCHMARKS["mmlu"]))
    return list(examinee.answers(subject, subject.questions)), scorer


def test_a_question_is_scored_behind_its_shots():
    [record], scorer = answered(1000)
    assert record == {
        "subject": "high_school_physics",
        "id": "1",
        "answer": "B",
        "letter": "D",
        "shots": 2,
        "scores": [-4.0, -3.0, -2.0, -1.0],
    }
    [row] = scorer.seen
    assert row.targets == (" A", " B", " C", " D")
    assert not row.alone  # MMLU's " A" is the token of the whole text
    assert row.context.startswith(row.shared) and row.context.removeprefix(row.shared).startswith(" 1 + 1?")


def test_a_long_prompt_loses_its_last_shots():
    whole = len(answered(1000)[1].seen[0].context)
    shot = len("Is it?\n\nA. yes\nB. no\nC. None\nD. \nAnswer: C\n\n")
    for room, shots in ((whole, 2), (whole - 1, 1), (whole - shot, 1), (whole - shot - 1, 0), (whole - 2 * shot, 0)):
        [record], scorer = answered(room)
        assert record["shots"] == shots
        assert scorer.seen[0].context.count("Answer: C") == shots


def test_a_question_that_does_not_fit_at_all():
    long = Question("2", "long " * 50, ASKED.choices, "A")
    records, scorer = answered(250, (long, ASKED))
    assert [(record["id"], record["letter"], record["shots"], record["scores"][:1]) for record in records] == [
        ("2", "", None, []),
        ("1", "D", 2, [-4.0]),
    ]
    assert len(scorer.seen) == 1


def test_questions_with_as_many_shots_are_scored_beside_each_other():
    """What rows share is read once where they follow each other; the records keep their order."""
    long = Question("2", "long " * 8, ASKED.choices, "A")
    room = len(answered(1000)[1].seen[0].context)
    other = Question("3", ASKED.text, ASKED.choices, "A")
    records, scorer = answered(room, (ASKED, long, other))
    assert [(record["id"], record["shots"]) for record in records] == [("1", 2), ("2", 1), ("3", 2)]
    assert [row.context.count("Answer: C") for row in scorer.seen] == [1, 2, 2]


def test_what_comes_in_another_order_waits():
    found = iter([(4, "d"), (0, "a"), (3, "c"), (1, "b")])
    ordered = in_order([0, 1, 3, 4], found)
    assert next(ordered) == "a" and next(found) == (3, "c")  # no more than needed was taken
    assert list(in_order([0, 1, 3, 4], iter([(4, "d"), (0, "a"), (3, "c"), (1, "b")]))) == ["a", "b", "c", "d"]


class Writing:
    """A chat model that finishes later questions first, and answers with what it was asked."""

    def __init__(self, processor, text: str):
        self.processor, self.text, self.asked = processor, text, []

    def results(self, prompts, config, batch_size):
        self.config = config
        self.asked = list(prompts)
        return ((place, [place]) for place in reversed(range(len(prompts))))

    def answer(self, ids) -> str:
        return f"{self.text} {'ABCD'[ids[0]]}"


def test_answers_in_words():
    processor = ChatProcessor(GLMTokenizer.from_pretrained(DATA / "glm4-tiny"), src_length=2000, tgt_length=32)
    writer = Writing(processor, "ANSWER:")
    long = Question("2", "long " * 500, ASKED.choices, "A")
    subject = Subject("law", (SHOT,), (ASKED, long, ASKED))
    records = list(ByText(writer, BENCHMARKS["mmlu"], 8).answers(subject, subject.questions))
    assert [(record["letter"], record["text"], record["shots"]) for record in records] == [
        ("A", "ANSWER: A", 1),
        ("", "", None),
        ("B", "ANSWER: B", 1),
    ]
    assert (writer.config.do_sample, writer.config.num_beams, writer.config.max_length) == (False, 1, 32)
    assert writer.asked[0] == processor.messages_prompt(conversation(BENCHMARKS["mmlu"], subject, ASKED, 1))


def test_a_conversation_loses_shots_that_do_not_fit():
    tokenizer = GLMTokenizer.from_pretrained(DATA / "glm4-tiny")
    subject = Subject("law", (SHOT, SHOT), (ASKED,))
    for shots in (2, 1, 0):
        whole = chat_format(tokenizer).prompt_ids(tokenizer, conversation(BENCHMARKS["mmlu"], subject, ASKED, shots))
        writer = Writing(ChatProcessor(tokenizer, src_length=len(whole), tgt_length=32), "")
        [record] = ByText(writer, BENCHMARKS["mmlu"], 8).answers(subject, subject.questions)
        assert record["shots"] == shots and writer.asked == [whole]

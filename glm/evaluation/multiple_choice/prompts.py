"""What a benchmark's questions look like to a model, and where its answers begin.

Of every benchmark there is the form of its own code and that of lm-evaluation-harness 0.4.13, character by character:
hendrycks/test `evaluate.py`, hkust-nlp/ceval `evaluators/llama.py`, haonan-li/CMMLU `mp_utils.py`; lm_eval's
`tasks/mmlu/default`, `tasks/ceval` and `tasks/cmmlu`.
"""

from __future__ import annotations

from dataclasses import dataclass

from glm.datasets.multiple_choice.benchmarks import LETTERS, Benchmark, Question, Subject

BETWEEN = "\n\n"  # stands behind a shot
FORMS = ("original", "lm_eval")


@dataclass(frozen=True)
class Form:
    """A way to ask.

    Attributes:
        header: before all questions of a subject; has {subject}.
        begin, end: of a question; the letter follows `end` and `gap`.
        gap: belongs to the letter, which a tokenizer then gives one id with it.
        strips: whether white space around a question is dropped.
        alone: whether the letter's token is that of the letter by itself, as the Chinese benchmarks' own code has it:
            `：A` is one piece to the tokenizer of GLM-4, and may be one token.
    """

    header: str
    end: str
    begin: str = ""
    gap: str = ""
    strips: bool = False
    alone: bool = False

    def shared(self, title: str, shots: tuple[Question, ...]) -> str:
        """What all questions of a subject begin with: the header and the shots with their answers."""
        shown = (f"{self.question(shot)}{self.target(shot.answer)}{BETWEEN}" for shot in shots)
        return self.header.format(subject=title) + "".join(shown)

    def question(self, question: Question) -> str:
        """A question up to where its letter begins."""
        text = question.text.strip() if self.strips else question.text
        choices = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, question.choices, strict=True))
        return f"{self.begin}{text}{choices}\n{self.end}"

    def target(self, letter: str) -> str:
        return f"{self.gap}{letter}"


_MMLU = "The following are multiple choice questions (with answers) about {subject}.\n\n"
_CMMLU = "以下是关于{subject}的单项选择题，请直接给出正确答案的选项。\n\n"
# Benchmark → form → what it is. The two blanks before MMLU's subject are those of its own code.
_FORMS = {
    "mmlu": {
        "original": Form(_MMLU.replace("about ", "about  "), "Answer:", gap=" "),
        "lm_eval": Form(_MMLU, "Answer:", gap=" ", strips=True),
    },
    "ceval": {
        "original": Form("以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n", "答案：", alone=True),
        "lm_eval": Form(
            "以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n", "答案：", gap=" ", strips=True
        ),
    },
    "cmmlu": {
        "original": Form(_CMMLU, "答案是：", begin="题目：", alone=True),
        "lm_eval": Form(_CMMLU, "答案：", gap=" ", strips=True),
    },
}


def form_of(benchmark: Benchmark, name: str = "original") -> Form:
    """The form of this name, one of `FORMS`."""
    return _FORMS[benchmark.name][name]


# What a chat model is asked: openai/simple-evals' query for multiple choice, to which GLM-4's published scores belong;
# of the Chinese benchmarks the same in Chinese.
_ASKED = """\
Answer the following multiple choice question. The last line of your response should be of the following format: \
'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.

{text}

A) {A}
B) {B}
C) {C}
D) {D}"""
_ASKED_IN_CHINESE = """\
请回答下面的单项选择题。先逐步思考，回答的最后一行只写“答案：$LETTER”（不带引号），其中 LETTER 是 A、B、C、D 之一。

{text}

A) {A}
B) {B}
C) {C}
D) {D}"""
_ANSWERED = {"mmlu": "ANSWER: {}", "ceval": "答案：{}", "cmmlu": "答案：{}"}


def asked(benchmark: Benchmark, question: Question) -> str:
    """What the user says to a chat model."""
    template = _ASKED if benchmark.name == "mmlu" else _ASKED_IN_CHINESE
    return template.format(text=question.text, **dict(zip(LETTERS, question.choices, strict=True)))


def conversation(benchmark: Benchmark, subject: Subject, question: Question, shots: int) -> list[dict[str, str]]:
    """Messages up to the question; a shot is a turn that was answered with its letter alone."""
    messages = []
    for shot in subject.shots[:shots]:
        messages.append({"role": "user", "content": asked(benchmark, shot)})
        messages.append({"role": "assistant", "content": _ANSWERED[benchmark.name].format(shot.answer)})
    return [*messages, {"role": "user", "content": asked(benchmark, question)}]

"""Which letter a generated text answers with. The right answer is not known here.

The first rule that finds something counts, and of what it finds the last:

1. `ANSWER: B`, in any case, as openai/simple-evals asks for; also `答案：B`.
2. The same with a verb or marks around: `**Answer:** (B)`, `The answer is B`, `答案是 B`, `答案为：B`, `\\boxed{B}`.
3. A text that is a letter, or begins with one that is set off: `B`, `(B)`, `B. 12 cm`, `B）十二`.

A letter that a word goes on from (`ANSWER: Because`) is none; rules 2 and 3 take capital letters only, for `the answer
is a dog` has none. A text in which no rule finds a letter is a wrong answer, and is counted as one without a letter.
"""

from __future__ import annotations

import re

_MARKS = r"[\s*_`$(（\[【{“\"'：:]*"
_RULES = (
    re.compile(r"(?:(?i:ANSWER)|答案)\s*[:：]\s*([A-Da-d])(?![A-Za-z])"),
    re.compile(
        rf"(?:(?:(?i:ANSWER)|答案|(?<![不错漏])选择?)(?:选?项)?{_MARKS}(?:(?i:IS)|应该是|应该选|应为|是|为|选)?{_MARKS}|\\boxed\{{)"
        r"(?:\\(?:boxed|text|mathrm)\{)*([A-D])(?![A-Za-z])"
    ),
    re.compile(r"\A[\s*_`(（\[【“\"']*([A-D])(?=[\s*_`)）\]】”\"']*(?:\Z|[.．。,，、:：)）]))"),
)


def answered_letter(text: str) -> str:
    """A, B, C or D, "" where the text answers with none."""
    for rule in _RULES:
        if found := rule.findall(text):
            return found[-1].upper()
    return ""

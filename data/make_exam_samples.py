"""Write the bundled multiple-choice questions: English ones in MMLU's layout, Chinese ones in C-Eval's.

    python data/make_exam_samples.py [--output DIR]

The questions are this project's own: sums, the calendar, units and order, so that a model needs no more than school.
The same seed gives the same bytes on every machine. No question stands twice in a subject.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

SEED = 20240605  # the day GLM-4-9B was published
LETTERS = "ABCD"
DEV, TEST = 5, 20  # questions of each subject

Made = tuple[str, str, list[str]]  # the question, the right answer, wrong ones
MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
UNITS = (("minutes", "hours", 60), ("days", "weeks", 7), ("centimetres", "metres", 100), ("grams", "kilograms", 1000))
NAMES = "甲乙丙丁"
QUALITIES = ("高", "矮"), ("重", "轻"), ("快", "慢"), ("早", "晚")


def _near(rng: random.Random, value: int) -> list[str]:
    """Three other numbers close to a number."""
    others = [value + step for step in (-10, -3, -2, -1, 1, 2, 3, 10) if value + step >= 0]
    return list(map(str, rng.sample(others, 3)))


def _sum(rng: random.Random) -> Made:
    a, b, sign = rng.randint(11, 89), rng.randint(2, 60), rng.choice("+-*")
    b = rng.randint(2, 9) if sign == "*" else min(a, b)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return f"{a} {sign.replace('*', '×').replace('-', '−')} {b}", str(value), _near(rng, value)


def sums_in_english(rng: random.Random) -> Made:
    term, value, wrong = _sum(rng)
    return f"What is {term}?", value, wrong


def sums_in_chinese(rng: random.Random) -> Made:
    term, value, wrong = _sum(rng)
    return f"{term} 等于____。", value, wrong


def calendar_and_units(rng: random.Random) -> Made:
    if rng.random() < 0.5:
        month, (word, step) = rng.randrange(12), rng.choice([("after", 1), ("before", -1)])
        right = MONTHS[(month + step) % 12]
        others = [name for name in MONTHS if name not in (right, MONTHS[month])]
        return f"Which month comes right {word} {MONTHS[month]}?", right, rng.sample(others, 3)
    small, large, factor = rng.choice(UNITS)
    count = rng.randint(2, 9)
    return f"How many {small} are in {count} {large}?", str(count * factor), _near(rng, count * factor)


def order(rng: random.Random) -> Made:
    more, less = rng.choice(QUALITIES)
    names = rng.sample(NAMES, 4)
    said = [f"{a}比{b}{more}" for a, b in itertools.pairwise(names)]
    asked, right = rng.choice([(more, names[0]), (less, names[3])])
    return f"{'，'.join(rng.sample(said, 3))}。谁最{asked}？", right, [name for name in names if name != right]


SUBJECTS: dict[str, dict[str, Callable[[random.Random], Made]]] = {
    "exam_en": {"elementary_mathematics": sums_in_english, "miscellaneous": calendar_and_units},
    "exam_zh": {"middle_school_mathematics": sums_in_chinese, "logic": order},
}


def questions(make: Callable[[random.Random], Made], rng: random.Random) -> Iterator[list[str]]:
    """Rows of question, A, B, C, D and the right letter, each question once."""
    seen = set()
    while len(seen) < DEV + TEST:
        text, right, wrong = make(rng)
        if text in seen:
            continue
        seen.add(text)
        choices = rng.sample([right, *wrong], 4)
        yield [text, *choices, LETTERS[choices.index(right)]]


def write(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue().encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of exam_en and exam_zh")
    output = parser.parse_args().output
    for number, (folder, subjects) in enumerate(SUBJECTS.items()):
        for place, (subject, make) in enumerate(subjects.items()):
            rows = list(questions(make, random.Random(SEED + 10 * number + place)))
            if folder == "exam_en":
                splits, header = {"dev": rows[:DEV], "test": rows[DEV:]}, []
            else:
                header = [["id", "question", *LETTERS, "answer"]]
                numbered = {"dev": rows[:DEV], "val": rows[DEV:]}
                splits = {name: [[i, *row] for i, row in enumerate(some)] for name, some in numbered.items()}
            for split, some in splits.items():
                write(output / folder / split / f"{subject}_{split}.csv", [*header, *some])


if __name__ == "__main__":
    main()

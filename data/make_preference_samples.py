"""Write the bundled sample of preference tuning: questions, each with a better and a worse answer.

    python data/make_preference_samples.py [--output DIR]

A prompt states two facts about an invented shop, in Chinese or in English, and asks for one of them. The better answer
says it in a whole sentence of the prompt's language. The worse one is a bare word or says that it does not know; or it
is such a sentence, too, in the other language or of the other fact, and only the prompt shows that it is worse. Names
are made as in make_samples.py: no name of a dev row occurs in a train row. The same seed gives the same bytes on every
machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

from make_samples import distinct, make_names, run, take

SEED = 20230529  # the day direct preference optimization appeared on arXiv
TRAIN_ROWS, DEV_ROWS = 400, 80
LANGUAGES = ("zh", "en")
GOODS = (
    ("茶叶", "tea"),
    ("面包", "bread"),
    ("雨伞", "umbrellas"),
    ("图书", "books"),
    ("布鞋", "shoes"),
    ("皮球", "balls"),
)
COLOURS = (("红色", "red"), ("蓝色", "blue"), ("白色", "white"), ("黑色", "black"))
FACTS = {
    "zh": "{name}店卖{goods}，大门是{colour}的。",
    "en": "The shop {name} sells {goods} and has a {colour} door.",
}
# What may be asked → the question, the sentence that answers it, and the bare word.
ASKED = {
    "goods": {
        "zh": ("这家店卖什么？", "{name}店卖{goods}。", "{goods}"),
        "en": ("What does it sell?", "{name} sells {goods}.", "{goods}"),
    },
    "colour": {
        "zh": ("大门是什么颜色？", "{name}店的大门是{colour}的。", "{colour}"),
        "en": ("What colour is the door?", "The door of {name} is {colour}.", "{colour}"),
    },
}
UNKNOWN = {"zh": "我不知道。", "en": "I do not know."}
FAULTS = ("language", "word", "unknown", "other fact")


def preference_row(rng: random.Random, names: Sequence[str]) -> dict:
    """One comparison, as TRL writes it in plain text."""
    language, fault, asked = rng.choice(LANGUAGES), rng.choice(FAULTS), rng.choice(list(ASKED))
    goods, colour, name = rng.choice(GOODS), rng.choice(COLOURS), rng.choice(names)
    said = {
        tongue: {"name": name, "goods": goods[number], "colour": colour[number]}
        for number, tongue in enumerate(LANGUAGES)
    }

    def text(template: str, tongue: str = language) -> str:
        return template.format(**said[tongue])

    question, sentence, word = ASKED[asked][language]
    (other,) = (tongue for tongue in LANGUAGES if tongue != language)
    (unasked,) = (fact for fact in ASKED if fact != asked)
    worse = {
        "language": text(ASKED[asked][other][1], other),
        "word": text(word),
        "unknown": UNKNOWN[language],
        "other fact": text(ASKED[unasked][language][1]),
    }
    gap = {"zh": "", "en": " "}[language]
    return {
        "prompt": f"{text(FACTS[language])}{gap}{question}",
        "chosen": text(sentence),
        "rejected": worse[fault],
    }


def make_preference_samples() -> dict[str, list[dict]]:
    """Relative file name → rows."""
    rng = random.Random(SEED)
    train_names, dev_names = make_names(rng)
    return {
        f"preference/{split}.json": take(distinct(partial(preference_row, names=names), rng), count)
        for split, names, count in (("train", train_names, TRAIN_ROWS), ("dev", dev_names, DEV_ROWS))
    }


if __name__ == "__main__":
    run(make_preference_samples, "the bundled sample of preference tuning")

"""Write the bundled samples: invented question-generation rows, small sums and short conversations.

    python data/make_samples.py [--output DIR]

The text is this project's own: invented names, invented facts. The same seed gives the same bytes on every machine.
A name is two or three characters of NAME_CHARACTERS and a type word (云溪桥). No name of a dev file occurs anywhere in
the train file beside it, so what a model scores on dev it has not memorised.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SEED = 20210318  # the day GLM appeared on arXiv
NAME_CHARACTERS = (
    "云溪松竹梅兰柳枫桂荷莲菊杏霞虹霜露晴月星辰晨暮春秋琴诗鹤燕鹰鹿凤"
    "麟安宁福禄寿康泰清明嘉瑞祥永昌德仁义礼智信秀华英杰雅静淑兴旺隆丰"
)
DEV_NAMES = 200
TRAIN_NAMES = 4000

Value = Callable[[random.Random], str]


def _number(low: int, high: int, unit: str) -> Value:
    return lambda rng: f"{rng.randint(low, high)}{unit}"


def _one_of(*words: str) -> Value:
    return lambda rng: rng.choice(words)


_COLOUR = _one_of("红色", "蓝色", "白色", "黑色", "黄色", "绿色")
_PLACE = _one_of("东部", "西部", "南部", "北部", "中部")
_FOOD = _one_of("苹果", "西瓜", "大米", "白糖", "鱼虾", "葡萄")

# type word -> facts: (the statement, its value, the question it answers). One question form a fact, so that exact match
# is a fair measure.
FACTS: dict[str, list[tuple[str, Value, str]]] = {
    "桥": [
        ("建于{}", _number(1500, 1999, "年"), "建于哪一年"),
        ("长{}", _number(20, 99, "米"), "长多少米"),
        ("是一座{}", _one_of("石桥", "木桥", "铁桥"), "是什么桥"),
    ],
    "塔": [
        ("建于{}", _number(1500, 1999, "年"), "建于哪一年"),
        ("高{}", _number(20, 99, "米"), "高多少米"),
        ("共有{}", _number(5, 19, "层"), "共有多少层"),
    ],
    "河": [
        ("长{}", _number(20, 99, "公里"), "长多少公里"),
        ("流入{}", _one_of("东海", "南海", "黄海", "大江"), "流入哪里"),
        ("盛产{}", _one_of("鱼虾", "大米"), "盛产什么"),
    ],
    "湖": [
        ("面积有{}", _number(20, 99, "公里"), "面积有多少公里"),
        ("水深{}", _number(5, 60, "米"), "水深多少米"),
        ("位于{}", _PLACE, "位于哪里"),
    ],
    "镇": [
        ("有{}", _number(20, 99, "万人"), "有多少人"),
        ("位于{}", _PLACE, "位于哪里"),
        ("盛产{}", _FOOD, "盛产什么"),
    ],
    "店": [
        ("开业于{}", _number(1900, 2020, "年"), "开业于哪一年"),
        ("主要卖{}", _one_of("面包", "鲜花", "布鞋", "雨伞", "图书", "茶叶"), "主要卖什么"),
        ("大门是{}", _COLOUR, "大门是什么颜色"),
    ],
    "小学": [
        ("成立于{}", _number(1900, 2020, "年"), "成立于哪一年"),
        ("有学生{}", _number(200, 999, "人"), "有多少学生"),
        ("校服是{}", _COLOUR, "校服是什么颜色"),
    ],
    "老师": [
        ("今年{}", _number(25, 60, "岁"), "今年多大"),
        ("教{}", _one_of("数学", "语文", "音乐", "体育", "美术"), "教什么"),
        ("喜欢{}", _one_of("唱歌", "跳舞", "跑步", "下棋", "游泳", "读书"), "喜欢什么"),
    ],
}

# {name} comes first or after a short opening; {0} and {1} are statements, {2} a third one where a template has room.
TEMPLATES = (
    "{name}{0}，{1}，很多人都知道。",
    "{name}很有名，{0}，而且{1}。",
    "大家都知道，{name}{0}，{1}。",
    "据说{name}{0}，同时{1}，{2}。",
    "{name}{0}，{1}，另外{2}。",
    "今天我们说说{name}。{0}，{1}，{2}。",
)

SHOPPING = ("苹果", "西瓜", "面包", "鸡蛋", "杯子", "皮球")
CHILDREN = ("小刚", "小红", "小丽", "小军")


def make_names(rng: random.Random) -> tuple[list[str], list[str]]:
    """Name cores (without type word) for train and dev; no dev core is contained in a train core."""
    pairs = [a + b for a in NAME_CHARACTERS for b in NAME_CHARACTERS if a != b]
    rng.shuffle(pairs)
    triples = ["".join(rng.sample(NAME_CHARACTERS, 3)) for _ in range(2 * TRAIN_NAMES)]
    dev = pairs[: DEV_NAMES // 2] + triples[: DEV_NAMES // 2]
    held_out = set(dev)
    train = pairs[DEV_NAMES // 2 : TRAIN_NAMES // 2]
    train += [core for core in dict.fromkeys(triples) if not held_out & {core, core[:2], core[1:]}]
    train = train[:TRAIN_NAMES]
    rng.shuffle(train)
    rng.shuffle(dev)
    return train, dev


def question_row(core: str, row_id: int, rng: random.Random) -> dict:
    """One DuReaderQG row: a context of two or three facts about one name, one fact as the answer, its question."""
    kind = rng.choice(list(FACTS))
    name = core + kind
    facts = [(statement, value(rng), question) for statement, value, question in FACTS[kind]]
    rng.shuffle(facts)
    template = rng.choice(TEMPLATES)
    mentioned = facts if "{2}" in template else facts[:2]
    context = template.format(*(statement.format(value) for statement, value, _ in facts), name=name)
    _, answer, question = rng.choice(mentioned)
    return {"context": context, "answer": answer, "question": name + question, "id": row_id}


def _sum_row(rng: random.Random) -> dict:
    first, second = rng.randint(2, 12), rng.randint(1, 9)
    child, thing = rng.choice(CHILDREN), rng.choice(SHOPPING)
    if rng.random() < 0.5:
        story, sign, total = f"{child}有{first}个{thing}，又买了{second}个", "+", first + second
    else:
        first += second
        story, sign, total = f"{child}有{first}个{thing}，送给同学{second}个", "-", first - second
    output = f"{first}{sign}{second}={total}，现在有{total}个{thing}。"
    return _instruction(f"{story}，现在有多少个{thing}？", "", output)


def _formula_row(rng: random.Random) -> dict:
    first, second = rng.randint(2, 12), rng.randint(1, 9)
    sign, total = rng.choice((("+", first + second), ("-", first)))
    first = first if sign == "+" else first + second
    return _instruction("计算下面的题目。", f"{first}{sign}{second}", f"{first}{sign}{second}={total}")


def _copy_row(rng: random.Random) -> dict:
    word = "".join(rng.sample(NAME_CHARACTERS, 3))
    return rng.choice(
        (
            _instruction("重复下面的词。", word, word),
            _instruction("反过来写下面的词。", word, word[::-1]),
            _instruction(f"“{word}”的第一个字是什么？", "", word[0]),
        )
    )


def _instruction(instruction: str, text: str, output: str) -> dict:
    return {"instruction": instruction, "input": text, "output": output}


def math_row(rng: random.Random) -> dict:
    """One instruction row: a word problem, a bare formula in `input`, or a copying task."""
    return rng.choice((_sum_row, _sum_row, _formula_row, _copy_row))(rng)


def conversation_row(rng: random.Random) -> dict:
    """Two turns inside `instruction`, as BELLE writes them; the answer needs the first turn."""
    if rng.random() < 0.5:
        name = "".join(rng.sample(NAME_CHARACTERS, 2))
        first, reply, second, output = f"我叫{name}。", f"你好，{name}。", "我叫什么？", f"你叫{name}。"
    else:
        count, thing = rng.randint(2, 19), rng.choice(SHOPPING)
        first, reply = f"我有{count}个{thing}。", "好，我知道了。"
        second, output = f"我有多少个{thing}？", f"你有{count}个{thing}。"
    return _instruction(f"Human:{first}\nAssistant:{reply}\nHuman:{second}\nAssistant:", "", output)


def distinct(make: Callable[[random.Random], dict], rng: random.Random) -> Iterator[dict]:
    seen = set()
    while True:
        row = make(rng)
        key = json.dumps(row, ensure_ascii=False)
        if key not in seen:
            seen.add(key)
            yield row


def take(rows: Iterator[dict], count: int) -> list[dict]:
    return [next(rows) for _ in range(count)]


def make_samples() -> dict[str, list[dict]]:
    """Relative file name -> rows."""
    rng = random.Random(SEED)
    train_names, dev_names = make_names(rng)
    samples = {
        "dureader_qg/train.json": [question_row(core, i, rng) for i, core in enumerate(train_names)],
        "dureader_qg/dev.json": [question_row(core, i, rng) for i, core in enumerate(dev_names)],
    }
    for task, make, train_size, dev_size in (
        ("school_math_0.25M", math_row, 2000, 100),
        ("multiturn_chat_0.8M", conversation_row, 600, 50),
    ):
        rows = distinct(make, rng)
        samples[f"bellegroup/{task}/train.json"] = take(rows, train_size)
        samples[f"bellegroup/{task}/dev.json"] = take(rows, dev_size)
    return samples


def write_json_lines(path: Path, rows: Iterable[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def run(make: Callable[[], dict[str, list[dict]]], what: str) -> None:
    """A script that writes what `make` gives for relative file names, described as `what`."""
    parser = argparse.ArgumentParser(description=f"Write {what}.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to (default: data)")
    output = parser.parse_args().output
    for name, rows in make().items():
        write_json_lines(output / name, rows)
        print(f"{output / name}: {len(rows)} rows")


if __name__ == "__main__":
    run(make_samples, "the bundled sample data sets")

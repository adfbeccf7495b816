"""Write the bundled samples of the chat models' tasks: advertisements, instructions and conversations.

    python data/make_chat_samples.py [--output DIR]

Rows as in ADGEN, in Stanford's alpaca_data.json and in GLM-4's fine-tuning files; the text is this project's own. An
answer follows from its question alone, so that a tiny model can learn it, and names are made as in make_samples.py: no
name of a dev question occurs in a train question. The same seed gives the same bytes on every machine.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from functools import partial

from make_samples import SHOPPING, distinct, make_names, run, take

SEED = 20230314  # the day ChatGLM-6B appeared

Names = Sequence[str]
Make = Callable[[random.Random, Names], dict]

GOODS = ("布鞋", "雨伞", "图书", "茶叶", "面包", "杯子", "皮球", "校服")
# Attribute of a piece of goods -> its values and how an advertisement says it, in the order in which it says them.
ATTRIBUTES: dict[str, tuple[tuple[str, ...], str]] = {
    "颜色": (("红色", "蓝色", "白色", "黑色", "黄色", "绿色"), "是{}的"),
    "产于": (("东部", "西部", "南部", "北部", "中部"), "产于{}"),
    "喜欢": (("学生", "老师", "大家"), "很多{}都喜欢"),
}
SUBJECTS = ("数学", "语文", "音乐", "体育", "美术")
# Short, because templates print it indented, and a tiny vocabulary spells it in single bytes.
STOCK_TOOL = {
    "type": "function",
    "function": {"name": "stock", "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}}},
}


def advertisement_row(rng: random.Random, names: Names) -> dict:
    """Attributes in any order, two or three of them besides name and kind; the summary has them in one order."""
    name, goods = rng.choice(names), rng.choice(GOODS)
    chosen = {key: rng.choice(values) for key, (values, _) in ATTRIBUTES.items()}
    if rng.random() < 0.5:
        del chosen[rng.choice(list(chosen))]
    pairs = [("名字", name), ("卖", goods), *chosen.items()]
    rng.shuffle(pairs)
    said = [ATTRIBUTES[key][1].format(value) for key, value in chosen.items()]
    return {
        "content": "*".join(f"{key}#{value}" for key, value in pairs),
        "summary": f"{name}{goods}{'，'.join(said)}。",
    }


def instruction_row(rng: random.Random, names: Names) -> dict:
    """One of six tasks; English ones end in the full stop that alpaca's converter drops before an input."""
    name = rng.choice(names)
    first, second = rng.randint(2, 40), rng.randint(2, 12)
    return _instruction(
        *rng.choice(
            (
                ("Add the numbers.", f"{first} {second}", str(first + second)),
                ("Take the first character.", name, name[0]),
                ("Which is greater?", f"{first}, {second}", str(max(first, second))),
                ("重复下面的词。", name, name),
                ("反过来写下面的词。", name, name[::-1]),
                (f"“{name}”有多少个字？", "", f"{len(name)}个字。"),
            )
        )
    )


def conversation_row(rng: random.Random, names: Names) -> dict:
    return rng.choices((_talk_row, _system_row, _tool_row), weights=(6, 3, 1))[0](rng, names)


def _talk_row(rng: random.Random, names: Names) -> dict:
    """Two facts, and one or two questions about them."""
    name, count, thing = rng.choice(names), rng.randint(2, 19), rng.choice(SHOPPING)
    questions = [("我叫什么？", f"你叫{name}。"), (f"我有多少个{thing}？", f"你有{count}个{thing}。")]
    asked = rng.sample(questions, rng.randint(1, 2))
    return {
        "messages": _turns((f"我叫{name}。", f"你好，{name}。"), (f"我有{count}个{thing}。", "好，我知道了。"), *asked)
    }


def _system_row(rng: random.Random, names: Names) -> dict:
    """Who the assistant is stands in the system message."""
    name, subject = rng.choice(names), rng.choice(SUBJECTS)
    questions = [("你叫什么？", f"我叫{name}。"), ("你教什么？", f"我教{subject}。")]
    system = {"role": "system", "content": f"你叫{name}，是老师，教{subject}。"}
    return {"messages": [system, *_turns(*rng.sample(questions, rng.randint(1, 2)))]}


def _tool_row(rng: random.Random, names: Names) -> dict:
    """A call, its result and the answer; the tool is described beside the messages or, as in GLM-4's files, in them."""
    store, count, thing = f"{rng.choice(names)}店", rng.randint(2, 99), rng.choice(SHOPPING)
    messages = [
        {"role": "user", "content": f"{store}有多少个{thing}？"},
        {"role": "assistant", "metadata": "stock", "content": _json({"thing": thing})},
        {"role": "observation", "content": _json({"count": count})},
        {"role": "assistant", "content": f"{store}有{count}个{thing}。"},
    ]
    if rng.random() < 0.5:
        return {"messages": messages, "tools": [STOCK_TOOL]}
    return {"messages": [{"role": "system", "content": "", "tools": [STOCK_TOOL]}, *messages]}


def _instruction(instruction: str, text: str, output: str) -> dict:
    return {"instruction": instruction, "input": text, "output": output}


def _turns(*pairs: tuple[str, str]) -> list[dict]:
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False)


TASKS: dict[str, tuple[Make, int, int]] = {
    "adgen": (advertisement_row, 2000, 100),
    "alpaca": (instruction_row, 2000, 100),
    "messages": (conversation_row, 1000, 50),
}


def make_chat_samples() -> dict[str, list[dict]]:
    """Relative file name -> rows."""
    rng = random.Random(SEED)
    train_names, dev_names = make_names(rng)
    samples = {}
    for task, (make, train_size, dev_size) in TASKS.items():
        train = take(distinct(partial(make, names=train_names), rng), train_size)
        new = (row for row in distinct(partial(make, names=dev_names), rng) if row not in train)
        samples |= {f"{task}/train.json": train, f"{task}/dev.json": take(new, dev_size)}
    return samples


if __name__ == "__main__":
    run(make_chat_samples, "the bundled sample data sets of the chat models' tasks")

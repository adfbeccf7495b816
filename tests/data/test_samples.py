"""The bundled samples: reproducible, in the real formats, and fit for what they are there for."""

import json
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
FILES = sorted(str(path.relative_to(DATA)) for path in DATA.glob("**/*.json") if path.stem in ("train", "dev"))


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def entity(question: str) -> str:
    """The full name a question asks about: what it shares with the start of no question form."""
    kinds = ("老师", "小学", "桥", "塔", "河", "湖", "镇", "店")
    for end in (4, 5, 3, 2):
        if question[:end].endswith(kinds):
            return question[:end]
    raise AssertionError(question)


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for script in ("make_samples.py", "make_chat_samples.py", "make_preference_samples.py"):
        subprocess.run([sys.executable, str(DATA / script), "--output", str(folder)], check=True, capture_output=True)
    return folder


def test_all_samples_are_there():
    assert len(FILES) == 14


@pytest.mark.parametrize("name", FILES)
def test_script_writes_the_bundled_bytes(regenerated, name):
    assert (regenerated / name).read_bytes() == (DATA / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_file_is_below_one_megabyte(name):
    assert (DATA / name).stat().st_size < 1_000_000


@pytest.mark.parametrize("split", ["train", "dev"])
def test_question_rows_are_answerable(split):
    for row in rows(f"dureader_qg/{split}.json"):
        assert list(row) == ["context", "answer", "question", "id"]
        assert row["answer"] in row["context"]
        assert entity(row["question"]) in row["context"]
        assert 16 <= len(row["context"]) <= 45


def test_dev_names_never_occur_in_train():
    train_text = (DATA / "dureader_qg/train.json").read_text(encoding="utf-8")
    names = [entity(row["question"]) for row in rows("dureader_qg/dev.json")]
    assert len(set(names)) == len(names) == 200
    assert not [name for name in names if name in train_text]


def test_every_dev_character_is_frequent_in_train():
    train_text = (DATA / "dureader_qg/train.json").read_text(encoding="utf-8")
    characters = set("".join(row["context"] + row["question"] for row in rows("dureader_qg/dev.json")))
    assert min(train_text.count(character) for character in characters) >= 80


def test_question_rows_use_few_characters():
    text = "".join(row[key] for s in ("train", "dev") for row in rows(f"dureader_qg/{s}.json") for key in list(row)[:3])
    assert len(set(text)) <= 250


@pytest.mark.parametrize("task", ["school_math_0.25M", "multiturn_chat_0.8M"])
def test_instruction_rows_are_text_and_distinct(task):
    train, dev = rows(f"bellegroup/{task}/train.json"), rows(f"bellegroup/{task}/dev.json")
    for row in train + dev:
        assert list(row) == ["instruction", "input", "output"]
        assert all(isinstance(value, str) for value in row.values())
        assert row["output"]
    assert len({json.dumps(row) for row in train + dev}) == len(train + dev)


def test_some_instructions_use_input_and_sums_are_right():
    train = rows("bellegroup/school_math_0.25M/train.json")
    assert sum(bool(row["input"]) for row in train) > 400
    sums = [row["output"].split("，")[0].split("=") for row in train if "=" in row["output"]]
    assert len(sums) > 1000
    for formula, result in sums:
        left, sign, right = formula.partition("+" if "+" in formula else "-")
        assert int(result) == int(left) + int(right) * (1 if sign == "+" else -1)


def test_conversations_end_at_the_assistant():
    for row in rows("bellegroup/multiturn_chat_0.8M/train.json"):
        assert row["instruction"].startswith("Human:")
        assert row["instruction"].endswith("\nAssistant:")
        assert row["instruction"].count("Human:") == 2


@pytest.mark.parametrize("task", ["adgen", "alpaca", "messages"])
def test_chat_rows_are_distinct(task):
    lines = [line for split in ("train", "dev") for line in (DATA / task / f"{split}.json").read_text().splitlines()]
    assert len(set(lines)) == len(lines)


def attributes(content: str) -> dict[str, str]:
    return dict(pair.split("#") for pair in content.split("*"))


def test_advertisements_say_every_attribute():
    orders = set()
    for row in rows("adgen/train.json") + rows("adgen/dev.json"):
        assert list(row) == ["content", "summary"]
        found = attributes(row["content"])
        orders.add(tuple(found))
        assert row["summary"].startswith(found["名字"] + found["卖"])
        assert all(value in row["summary"] for value in found.values())
    assert len(orders) > 100


@pytest.mark.parametrize("task", ["adgen", "alpaca", "messages", "preference"])
def test_names_in_dev_questions_are_new(task):
    sys.path.insert(0, str(DATA))
    from make_samples import make_names

    script = import_module("make_preference_samples" if task == "preference" else "make_chat_samples")
    _, names = make_names(random.Random(script.SEED))
    train, dev = ("\n".join(map(question, rows(f"{task}/{split}.json"))) for split in ("train", "dev"))
    assert sum(name in dev for name in names) > 25
    assert not [name for name in names if name in train]


def question(row: dict) -> str:
    said = row.get("messages", [])
    return " ".join(
        [*(row.get(name, "") for name in ("content", "instruction", "input", "prompt")), *(m["content"] for m in said)]
    )


def test_instructions_with_and_without_input():
    """Some end in the full stop that alpaca's converter drops before an input."""
    train = rows("alpaca/train.json")
    assert all(list(row) == ["instruction", "input", "output"] and row["output"] for row in train)
    assert sum(not row["input"] for row in train) > 200
    assert sum(row["instruction"].endswith(".") for row in train) > 400


@pytest.mark.parametrize("split", ["train", "dev"])
def test_conversations_of_every_kind(split):
    """Several turns, a system turn, and calls of a tool with the tools beside the messages or in the system turn."""
    conversations = rows(f"messages/{split}.json")
    kinds = {tuple(message["role"] for message in row["messages"]) for row in conversations}
    talk = ("user", "assistant")
    call = ("user", "assistant", "observation", "assistant")
    assert kinds == {talk * 3, talk * 4, ("system", *talk), ("system", *talk * 2), call, ("system", *call)}
    calling = [
        row for row in conversations if len(row["messages"]) > 2 and row["messages"][-2]["role"] == "observation"
    ]
    for row in calling:
        tools = row.get("tools") or row["messages"][0]["tools"]
        call, result, answer = row["messages"][-3:]
        assert call["metadata"] == tools[0]["function"]["name"]
        assert json.loads(call["content"]).keys() == tools[0]["function"]["parameters"]["properties"].keys()
        assert str(json.loads(result["content"])["count"]) in answer["content"]
    assert sum("tools" in row for row in calling) not in (0, len(calling))


def test_chat_rows_are_spelt_in_known_characters():
    """But for # and *, which ADGEN's attributes have, and the ASCII of English and JSON: one piece each as well."""
    sys.path.insert(0, str(DATA))
    from train_vocabulary import training_text

    known = set("".join(training_text())) | set(map(chr, range(128)))
    for name in ("adgen", "alpaca", "messages"):
        assert set((DATA / name / "train.json").read_text(encoding="utf-8")) <= known


@pytest.mark.parametrize("split", ["train", "dev"])
def test_comparisons(split):
    """In half of them both answers are sentences that are right answers elsewhere."""
    found = rows(f"preference/{split}.json")
    assert all(list(row) == ["prompt", "chosen", "rejected"] for row in found)
    assert all(row["chosen"] != row["rejected"] and row["chosen"][-1] in ".。" for row in found)
    assert len({tuple(row.values()) for row in found}) == len(found)
    english = sum(row["prompt"].startswith("The shop") for row in found)
    sentences = sum(row["rejected"][-1] in ".。" and row["rejected"][0] not in "I我" for row in found)
    assert 0.4 < english / len(found) < 0.6 and 0.4 < sentences / len(found) < 0.6

"""The bundled samples: reproducible, in the real formats, and fit for what they are there for."""

import json
import subprocess
import sys
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
    command = [sys.executable, str(DATA / "make_samples.py"), "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_all_samples_are_there():
    assert len(FILES) == 6


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

"""JSON files of prompts: rows are read as training reads them, but for their answers, or refused in one line."""

import argparse
import gzip
import io
import json
from pathlib import Path

import pytest

from glm.cli.prompt_rows import prompt_ids, prompt_text
from glm.cli.prompts import add_prompt_arguments, read_prompts, write_completions
from glm.datasets import TASKS, load_examples
from glm.encoding.processor import open_processor
from glm.errors import GLMError, UsageError

DATA = Path(__file__).resolve().parents[2] / "data"
FAMILIES = {"glm": "glm-tiny-chinese", "chatglm": "chatglm-tiny", "glm4": "glm4-0414-tiny"}
ANSWERS = ("output", "summary", "question")  # of the bundled samples


def arguments(*words) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_prompt_arguments(parser)
    return parser.parse_args(list(map(str, words)))


def write(path: Path, rows, form: str = "lines") -> Path:
    forms = {"lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)}
    forms |= {"array": json.dumps(rows), "pretty": json.dumps(rows, indent=2)}
    path.write_text(forms[form], encoding="utf-8-sig")
    return path


def ask(path, *more) -> list:
    return read_prompts(arguments("--input_file", path, *more))


@pytest.fixture(scope="module")
def processors():
    return {name: open_processor(DATA / folder, (2000, 100)) for name, folder in FAMILIES.items()}


@pytest.mark.parametrize("form", ["lines", "array", "pretty"])
@pytest.mark.parametrize("name", ["text", "prompt", "query", "question", "content", "input"])
def test_rows_with_a_text(tmp_path, capsys, form, name):
    rows = [{name: "甲\n乙", "id": 1}, {name: " ", "id": 2}, {"id": 3, name: "丙"}]
    path = write(tmp_path / "q.json", rows, form)
    assert ask(path) == read_prompts(arguments("--predict_data", path)) == ["甲\n乙", "丙"]
    said = f"{path}: 2 rows by '{name}'; 1 row blank, left out; not read: id\n"
    assert capsys.readouterr().err == said * 2


def test_rows_that_are_texts(tmp_path):
    assert ask(write(tmp_path / "q.jsonl", ["甲", "乙"])) == ask(write(tmp_path / "q.json", ["甲", "乙"], "array"))


@pytest.mark.parametrize(
    "task", ["dureader_qg", "school_math_0.25M", "multiturn_chat_0.8M", "adgen", "alpaca", "messages"]
)
@pytest.mark.parametrize("answered", [True, False])
def test_rows_of_a_task_are_asked_as_in_training(tmp_path, processors, task, answered):
    """The prompt of a training example, with the answer in the row and without it."""
    source = DATA / TASKS[task].collection / task / "dev.json"
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()[:12]]
    if not answered:
        rows = [_unanswered(row) for row in rows]
    examples = load_examples(task, "dev").examples[:12]
    prompts = ask(write(tmp_path / "q.jsonl", rows), "--task_name", task)
    for name, processor in processors.items():
        for prompt, example in zip(prompts, examples, strict=True):
            if name == "chatglm" and task == "messages":  # has no place for their system messages
                continue
            assert prompt_ids(processor, prompt) == processor.prompt(example)


def _unanswered(row: dict) -> dict:
    if "messages" in row:
        return row | {"messages": row["messages"][:-1]}
    return {name: value for name, value in row.items() if name not in ANSWERS}


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"context": "c", "answer": "a"}, "dureader_qg"),
        ({"source": "c", "title": "a", "target": "q"}, "dureader_qg"),
        ({"instruction": "Say it.", "input": "x", "output": "y"}, "alpaca"),
        ({"instruction": "说。", "input": "", "output": "y"}, "school_math_0.25M"),
        ({"instruction": "Human:甲\nAssistant:乙\nHuman:丙\nAssistant:"}, "multiturn_chat_0.8M"),
        ({"prompt": "Say it.", "query": "x"}, "alpaca"),
        ({"messages": [{"role": "user", "content": "q"}]}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "messages"),
        ({"prompt": [{"role": "user", "content": "q"}]}, "messages"),
    ],
)
def test_a_row_says_what_it_is(tmp_path, capsys, row, task):
    ask(write(tmp_path / "q.jsonl", [row]))
    assert f"q.jsonl: 1 row as {task}" in capsys.readouterr().err


def test_a_conversation_ends_with_the_question(tmp_path):
    turns = [("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四")]
    messages = [{"role": role, "content": text} for role, text in turns]
    sharegpt = [{"from": role, "value": text} for role, text in zip(("human", "gpt") * 2, "一二三四", strict=True)]
    rows = [{"messages": messages}, {"messages": messages[:3]}, {"conversations": sharegpt}]
    rows += [{"query": "三", "history": [["一", "二"]]}, {"query": "三", "history": messages[:2], "system": ""}]
    for prompt in ask(write(tmp_path / "q.json", rows, "array")):
        assert [(message["role"], message["content"]) for message in prompt["messages"]] == turns[:3]
        assert prompt["source"] == "Human: 一\n Assistant: 二\n Human: 三\n Assistant: "
        assert prompt_text(prompt) == "三"


def test_system_of_a_row(tmp_path):
    (prompt,) = ask(write(tmp_path / "q.json", [{"query": "三", "system": "你是导游"}]))
    assert [message["role"] for message in prompt["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": 1, "label": "x"}, "line 1: no prompt is in this row, which has id, label: name it text, prompt, query"),
        ({"text": 7}, "line 1: field 'text' is a number, not text"),
        ({"messages": []}, "line 1: the conversation asks nothing"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "line 1: the conversation asks nothing"),
        ({"query": "q", "history": [["a"]]}, "line 1: turn 1 of 'history' is no [question, answer] pair of texts"),
        ({"query": "q", "history": 5}, "line 1: field 'history' is a number, not a list of (question, answer) pairs"),
        ({"query": "q", "history": [["a", None]]}, "line 1: turn 1 of 'history' is no [question, answer] pair of"),
        ({"role": "user", "content": "q"}, "line 1: this row is a message, not a prompt: put the conversation's"),
        ({"from": "gpt", "value": "a"}, "line 1: this row is a message, not a prompt"),
        ({"instruction": 7}, "line 1: field 'instruction' is a number, not text"),
        (7, "line 1: a prompt is an object {…} or a text, this is a number"),
    ],
)
def test_bad_rows(tmp_path, row, said):
    with pytest.raises(GLMError) as error:
        ask(write(tmp_path / "q.jsonl", [row]))
    assert f"q.jsonl, {said}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "q.jsonl",
            b"a question\nanother",
            r"q\.jsonl, line 1: not valid JSON \(.*\); a file with one text per line",
        ),
        ("q.json", b"[]", "holds no text"),
        ("q.csv", b"text\nq", r"q\.csv is a \.csv file, .*save its rows as JSON Lines"),
        ("q.txt", "甲".encode("utf-16"), r"q\.txt is UTF-16, not UTF-8: save the file as UTF-8"),
        ("q.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a git-lfs pointer"),
        ("q.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a git-lfs pointer"),
    ],
)
def test_other_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    for way in ("--input_file", "--predict_data"):
        with pytest.raises(GLMError, match=said):
            read_prompts(arguments(way, tmp_path / name))


def test_json_under_another_name(tmp_path, capsys, monkeypatch):
    """Lines that are all JSON objects are no questions, wherever they stand."""
    path = write(tmp_path / "q.txt", [{"text": "甲"}, {"text": "乙"}])
    assert ask(path) == ["甲", "乙"]
    assert f"{path} holds JSON, so its rows are read, and the lines not asked as they are" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8"))
    assert read_prompts(arguments("-")) == ["甲", "乙"]
    assert "standard input holds JSON" in capsys.readouterr().err
    path.write_text('{"a": 1}\n是什么？')
    assert ask(path) == ['{"a": 1}', "是什么？"]
    assert "1 line(s) that look like JSON are asked as they are" in capsys.readouterr().err


@pytest.mark.parametrize("speaker", ["ai", "ChatGLM", "Model ", "tool_call"])
def test_an_answer_is_not_asked_whoever_gives_it(tmp_path, speaker):
    said = '{"name": "f", "arguments": {}}' if speaker == "tool_call" else "a"
    turns = [{"from": "human", "value": "q"}, {"from": speaker, "value": said}]
    asked = [{"role": "user", "content": "q"}]
    for row in ({"conversations": turns}, {"messages": json.dumps(turns)}):
        (prompt,) = ask(write(tmp_path / "q.jsonl", [row]))
        assert prompt["messages"] == asked
    (prompt,) = ask(write(tmp_path / "q.jsonl", [{"conversation": [{"human": "q", "assistant": "a"}]}]))
    assert prompt["messages"] == asked


def test_history_in_every_form_of_training(tmp_path):
    for history in ([["一", "二"]], '[["一", "二"]]', [{"human": "一", "assistant": "二"}]):
        (prompt,) = ask(write(tmp_path / "q.jsonl", [{"text": None, "query": "三", "history": history}]))
        assert [message["content"] for message in prompt["messages"]] == ["一", "二", "三"]


def test_packed_rows_and_tables(tmp_path):
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}'))
    assert ask(tmp_path / "q.jsonl.gz") == ["a"]
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"text": "a"}]).to_parquet(tmp_path / "q.parquet")
    assert ask(tmp_path / "q.parquet") == ["a"]


def test_texts_of_joined_files(tmp_path):
    (tmp_path / "q.txt").write_bytes("\ufeff甲\r\n\ufeff乙\r\n".encode())
    assert ask(tmp_path / "q.txt") == ["甲", "乙"]


def test_plain_prompts_of_rows(tmp_path):
    processor = open_processor(DATA / FAMILIES["glm4"], (200, 20), plain=True)
    (prompt,) = ask(write(tmp_path / "q.jsonl", [{"instruction": "甲", "output": "乙"}]))
    assert prompt_ids(processor, prompt) == processor.text_prompt("甲")
    (prompt,) = ask(write(tmp_path / "q.jsonl", [{"query": "三", "history": [["一", "二"]]}]))
    with pytest.raises(UsageError, match="--plain asks a text as it is, and this row is a conversation"):
        prompt_ids(processor, prompt)


def test_results_of_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = arguments("--predict_data", write(tmp_path / "q.jsonl", [{"messages": [{"role": "user", "content": "q"}]}]))
    write_completions(read_prompts(given), ["a"], given)
    written = (tmp_path / "text_generation_result.txt").read_text()
    assert json.loads(written) == {"text": "q", "text_generation_text": ["a"]}


def test_columns_before_an_instruction(tmp_path, capsys):
    """Earlier turns and a system text of BELLE and alpaca rows, under every name that training knows."""
    row = {"instruction": "三", "history": [["一", "二"]], "system": "你是导游", "output": "四", "id": 7}
    (prompt,) = ask(write(tmp_path / "q.jsonl", [row]))
    assert [message["content"] for message in prompt["messages"]] == ["你是导游", "一", "二", "三"]
    assert capsys.readouterr().err == f"{tmp_path / 'q.jsonl'}: 1 row as school_math_0.25M; not read: id\n"

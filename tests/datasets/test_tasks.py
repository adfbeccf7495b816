"""load_examples: prompts, splits, bundled samples, the Hub, and what is said when there is nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glm.datasets import TASKS, Example, load_examples
from glm.errors import GLMError
from glm.evaluation.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
BELLE_TASKS = [
    "generated_chat_0.4M",
    "school_math_0.25M",
    "train_2M_CN",
    "train_1M_CN",
    "train_0.5M_CN",
    "multiturn_chat_0.8M",
]


def write_rows(path: Path, *answers: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"context": "c", "answer": answer, "question": "q"} for answer in answers]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def answers(loaded) -> list[str]:
    return [example.source.removeprefix("答案：").partition("，")[0] for example in loaded.examples]


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_task_names():
    assert list(TASKS) == ["dureader_qg", *BELLE_TASKS, "adgen", "alpaca", "messages"]
    assert [name for name, task in TASKS.items() if task.metrics == "words"] == ["adgen", "alpaca", "messages"]
    assert {task.metrics for task in TASKS.values()} == set(METRICS)
    with pytest.raises(GLMError) as error:
        load_examples("dureader", "train")
    assert "'dureader' is unknown" in one_line(error)
    assert all(name in one_line(error) for name in TASKS)


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("dureader_qg", (4000, 200)),
        ("school_math_0.25M", (2000, 100)),
        ("multiturn_chat_0.8M", (600, 50)),
        ("adgen", (2000, 100)),
        ("alpaca", (2000, 100)),
        ("messages", (1000, 50)),
    ],
)
def test_bundled_sample(task, sizes):
    """Found wherever the script is started from, and the log says it is not the real data."""
    train, dev = load_examples(task, "train"), load_examples(task, "dev")
    assert (len(train.examples), len(dev.examples)) == sizes
    for word in ("bundled sample", "invented", "--data_path FILE"):
        assert word in train.source_description


def test_converted_alpaca(tmp_path):
    """The command of the seed; its file holds what the task `alpaca` makes of the rows itself."""
    command = [sys.executable, str(DATA / "alpaca_converter.py"), "--data_path", str(DATA / "alpaca/dev.json")]
    output = tmp_path / "alpaca_glm4_data.jsonl"
    result = subprocess.run([*command, "--output_path", str(output)], capture_output=True, text=True)
    assert result.stdout == f"{output}: 100 conversations\n", result.stderr
    first = json.loads(output.read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["messages"]
    converted = load_examples("messages", "train", str(output)).examples
    assert converted == load_examples("alpaca", "dev").examples
    assert any(": " in example.messages[0]["content"] for example in converted)


def test_bundled_sample_from_another_folder(tmp_path):
    code = "from glm.datasets import load_examples; print(len(load_examples('dureader_qg', 'dev').examples))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == "200", result.stderr


@pytest.mark.parametrize("task", [t for t in BELLE_TASKS if t not in ("school_math_0.25M", "multiturn_chat_0.8M")])
def test_task_without_sample(task):
    with pytest.raises(GLMError) as error:
        load_examples(task, "train", data_name="BelleGroup")
    assert f"https://huggingface.co/datasets/BelleGroup/{task}" in one_line(error)
    assert "--data_path FILE" in one_line(error)


def test_unknown_collection():
    with pytest.raises(
        GLMError, match=r"data_name 'alpaca' is unknown for task school_math_0\.25M; leave it at 'bellegroup'"
    ):
        load_examples("school_math_0.25M", "train", data_name="alpaca")


@pytest.mark.parametrize("dev_name", ["dev.json", "dev.jsonl", "validation.json", "valid.jsonl", "test.json"])
def test_splits(tmp_path, dev_name):
    train, _ = write_rows(tmp_path / "train.jsonl", "1", "2"), write_rows(tmp_path / dev_name, "3")
    write_rows(tmp_path / "extra.json", "4")
    for path in (tmp_path, train):
        assert answers(load_examples("dureader_qg", "train", str(path))) == ["1", "2"]
        assert answers(load_examples("dureader_qg", "dev", str(path))) == ["3"]


def test_dev_is_preferred_to_test(tmp_path):
    for name in ("train", "test", "validation", "dev"):
        write_rows(tmp_path / f"{name}.json", name)
    assert answers(load_examples("dureader_qg", "dev", str(tmp_path))) == ["dev"]


def test_the_test_split(tmp_path):
    """Its own rows, or None; those of a dev split do not stand for it, nor does a file that has another name."""
    train, _ = write_rows(tmp_path / "train.json", "1"), write_rows(tmp_path / "dev.json", "2")
    for path in (tmp_path, train, None):
        assert load_examples("dureader_qg", "test", path and str(path)) is None
    test = write_rows(tmp_path / "test.json", "3")
    for path in (tmp_path, train):
        assert answers(load_examples("dureader_qg", "test", str(path))) == ["3"]
        assert answers(load_examples("dureader_qg", "dev", str(path))) == ["2"]
        assert answers(load_examples("dureader_qg", "train", str(path))) == ["1"]
    assert load_examples("dureader_qg", "test", str(test)) is None


def test_data_without_a_dev_split(tmp_path):
    single = write_rows(tmp_path / "mine.json", "1")
    write_rows(tmp_path / "second.json", "2")
    assert answers(load_examples("dureader_qg", "train", str(tmp_path))) == ["1", "2"]
    assert load_examples("dureader_qg", "dev", str(tmp_path)) is None
    assert load_examples("dureader_qg", "dev", str(single)) is None
    write_rows(tmp_path / "dev.json", "3")
    # A file that is not called train.* has nothing to do with a dev.json beside it.
    assert load_examples("dureader_qg", "dev", str(single)) is None
    assert answers(load_examples("dureader_qg", "train", str(tmp_path))) == ["1", "2"]


def test_nothing_to_train_on(tmp_path):
    write_rows(tmp_path / "dev.json", "3")
    with pytest.raises(GLMError) as error:
        load_examples("dureader_qg", "train", str(tmp_path))
    assert "only dev.json" in one_line(error)


def test_skipped_rows_are_reported(tmp_path):
    path = write_rows(tmp_path / "train.json", "1", "2")
    path.write_text(path.read_text() + '\n{"context": "c"}\n')
    with pytest.raises(GLMError, match=r"train\.json, line 3: field 'answer'"):
        load_examples("dureader_qg", "train", str(path))
    loaded = load_examples("dureader_qg", "train", str(path), skip_bad_rows=True)
    assert (len(loaded.examples), loaded.skipped) == (2, 1)
    assert loaded.source_description == f"{path} (2 rows, 1 bad ones left out)"


def test_advertisements_without_text_are_left_out(tmp_path):
    """As the reference does; but a field that is not there at all is an error."""
    rows = [{"content": c, "summary": s} for c, s in [("甲", "乙"), ("", "乙"), ("甲", ""), ("甲", " \n")]]
    path = tmp_path / "train.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    loaded = load_examples("adgen", "train", str(path))
    assert (loaded.examples, loaded.skipped) == ([Example.of_pair("甲", "乙")], 3)
    assert loaded.source_description == f"{path} (1 rows, 3 empty ones left out)"
    path.write_text("\n".join(map(json.dumps, [*rows, {"content": "甲"}])))
    with pytest.raises(GLMError, match=r"line 5: field 'summary' is missing"):
        load_examples("adgen", "train", str(path))
    loaded = load_examples("adgen", "train", str(path), skip_bad_rows=True)
    assert loaded.source_description == f"{path} (1 rows, 1 bad ones left out, 3 empty ones left out)"
    path.write_text("\n".join(map(json.dumps, rows[1:])))
    with pytest.raises(GLMError) as error:
        load_examples("adgen", "train", str(path))
    assert "nothing to read from" in one_line(error)
    assert "field 'content' or 'summary' is empty in all 3 rows" in one_line(error)


@pytest.mark.parametrize("path", ["nowhere.json", "data/nowhere.jsonl", "../nowhere", "/nowhere/at/all"])
def test_missing_file_is_not_looked_up_on_the_hub(path):
    with pytest.raises(GLMError, match="does not exist"):
        load_examples("dureader_qg", "train", path)


def test_existing_folder_that_looks_like_a_hub_name(tmp_path, monkeypatch):
    write_rows(tmp_path / "someone/questions/train.json", "1")
    monkeypatch.chdir(tmp_path)
    assert answers(load_examples("dureader_qg", "train", "someone/questions")) == ["1"]


def run_with(environment: dict, code: str) -> subprocess.CompletedProcess:
    code = f"from glm.datasets import load_examples\nfrom glm.errors import GLMError\n{code}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_hub_out_of_reach_is_said_at_once(tmp_path, environment):
    pytest.importorskip("datasets")
    code = "try: load_examples('dureader_qg', 'train', 'someone/questions')\nexcept GLMError as error: print(error)"
    started = time.monotonic()
    result = run_with({**environment, "HF_HOME": str(tmp_path)}, code)
    assert time.monotonic() - started < 15
    assert len(result.stdout.splitlines()) == 1, result.stderr
    assert "data set someone/questions is no path here and cannot be had" in result.stdout
    assert "pass --data_path FILE" in result.stdout


def test_data_set_in_the_hub_cache(tmp_path):
    """The real load_dataset on its own cache: what an earlier download of someone/questions leaves behind."""
    datasets = pytest.importorskip("datasets")
    write_rows(tmp_path / "questions/train.json", "1", "2")
    write_rows(tmp_path / "questions/test.json", "3")
    cache = tmp_path / "cache"
    datasets.load_dataset(str(tmp_path / "questions"), cache_dir=str(cache))
    (built,) = (cache / "questions").iterdir()
    (cache / "someone___questions").mkdir()
    built.rename(cache / "someone___questions/default")
    code = (
        "for split in ('train', 'dev'):\n"
        "    loaded = load_examples('dureader_qg', split, 'someone/questions')\n"
        "    print(len(loaded.examples), loaded.source_description)\n"
        "try: load_examples('school_math_0.25M', 'train', 'someone/questions')\n"
        "except GLMError as error: print(error)"
    )
    result = run_with({"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache), "HF_HOME": str(tmp_path / "home")}, code)
    train, dev, wrong = result.stdout.splitlines() or [result.stderr] * 3
    assert train == "2 someone/questions on the Hugging Face Hub (2 rows)"
    assert dev == "1 someone/questions on the Hugging Face Hub (1 rows)"
    assert wrong.startswith("someone/questions, row 1: field 'instruction' is missing")


def test_imports_stay_light():
    code = (
        "import sys, glm.tokenizers, glm.evaluation.metrics\n"
        "print({'paddle', 'paddlenlp', 'datasets', 'nltk', 'jieba', 'rouge_chinese'} & {*sys.modules})"
    )
    result = run_with({}, code)
    assert result.stdout.strip() == "set()", result.stderr

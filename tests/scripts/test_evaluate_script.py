"""evaluate_generation.py through the command line: every family, exports, runs that go on, and what is refused."""

import csv
import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import paddle
import pytest

import evaluate_generation
from glm import GLMForCausalLM, GLMTokenizer
from glm.cli import multiple_choice as command
from glm.evaluation.multiple_choice import examinees
from tests.in_process import run_main
from tests.shared_files import SHARED

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ROOT / "data" / "exam_en", ROOT / "data" / "exam_zh"
PRESETS = ("glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-chat-tiny", "glm-4-9b-0414-tiny")
CHAT, LATENT = "glm-4-9b-chat-tiny", "glm-4.7-flash-tiny"
FEW = ["--limit", "3"]
REAL = SHARED / "real/datasets/mmlu"


@pytest.fixture
def evaluate(monkeypatch, capsys, tmp_path):
    """Runs the script; what it wrote is in `tmp_path / name`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, name: str = "out", task: str = "mmlu", data: Path = ENGLISH) -> tuple[int, str, str]:
        given = ["--task", task, "--data_path", data, "--output_dir", tmp_path / name, *arguments]
        return run_main(evaluate_generation.main, monkeypatch, capsys, *map(str, given))

    return run


@pytest.fixture
def evaluated(evaluate, tmp_path):
    """The same for a run that must end well: its results."""

    def run(*arguments, name: str = "out", **options) -> dict:
        code, out, err = evaluate(*arguments, name=name, **options)
        assert code == 0, err
        assert out.rstrip().endswith(str(tmp_path / name / "results.json"))
        return json.loads((tmp_path / name / "results.json").read_text("utf-8"))

    return run


def letters(results: dict) -> list[str]:
    return [record["letter"] for record in results["questions"]]


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS)
def test_every_family(evaluated, preset, tmp_path):
    results = evaluated("--model_name_or_path", preset, *FEW)
    assert {name: each["question_n"] for name, each in results["subjects"].items()} == {
        "elementary_mathematics": 3,
        "miscellaneous": 3,
    }
    assert all(len(record["scores"]) == 4 and record["shots"] == 5 for record in results["questions"])
    assert all(
        record["letter"] == "ABCD"[record["scores"].index(max(record["scores"]))] for record in results["questions"]
    )
    right = sum(record["letter"] == record["answer"] for record in results["questions"])
    assert results["total"] == {"question_n": 6, "correct": right, "acc": right / 6}
    assert (tmp_path / "out" / "subjects.png").stat().st_size > 1000


@pytest.mark.long
def test_the_scores_are_the_models(evaluated):
    """Of a prompt that this test writes itself, read whole by the model."""
    results = evaluated("--model_name_or_path", CHAT, "--num_shots", "2", "--limit", "1")
    read = {
        split: list(csv.reader((ENGLISH / split / f"miscellaneous_{split}.csv").open(encoding="utf-8", newline="")))
        for split in ("dev", "test")
    }

    def shown(row: list[str]) -> str:
        question, *choices, _ = row
        return "\n".join([question, *map(". ".join, zip("ABCD", choices, strict=True)), "Answer:"])

    prompt = "The following are multiple choice questions (with answers) about  miscellaneous.\n\n"
    prompt += "".join(f"{shown(row)} {row[-1]}\n\n" for row in read["dev"][:2]) + shown(read["test"][0])
    tokenizer, model = GLMTokenizer.from_pretrained(CHAT), GLMForCausalLM.from_pretrained(CHAT)
    model.eval()
    context = tokenizer.encode(prompt)
    ids = [tokenizer.encode(f"{prompt} {letter}") for letter in "ABCD"]
    assert all(row[: len(context)] == context for row in ids)
    wanted = [sum_of_log_probabilities(model, row, len(context)) for row in ids]
    assert results["questions"][1]["scores"] == pytest.approx(wanted, abs=2e-4)


def sum_of_log_probabilities(model, ids: list[int], start: int) -> float:
    """Of the ids from `start` on."""
    with paddle.no_grad():
        logits = model(input_ids=paddle.to_tensor([ids]))
    logits_TV = np.asarray((logits[0] if isinstance(logits, tuple) else logits).numpy()[0], dtype="float64")
    log_probs = logits_TV - np.log(np.exp(logits_TV - logits_TV.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_probs -= logits_TV.max(-1, keepdims=True)
    return sum(log_probs[place - 1, ids[place]] for place in range(start, len(ids)))


def test_the_table(evaluate):
    code, out, err = evaluate("--model_name_or_path", CHAT, *FEW)
    assert code == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [
        ["elementary_mathematics", "3"],
        ["miscellaneous", "3"],
        ["STEM", "3"],
        ["other", "3"],
        ["total", "6"],
        ["mean of the subjects", "2"],
    ]
    assert "subject" in out and "question_n" in out and "acc" in out
    assert out.splitlines()[-1].startswith("mmlu acc = ")


def test_subjects_and_categories(evaluated):
    results = evaluated("--model_name_or_path", CHAT, *FEW, "--subjects", "STEM")
    assert list(results["subjects"]) == ["elementary_mathematics"]


def test_c_eval(evaluated):
    results = evaluated("--model_name_or_path", "glm-4-9b-0414-tiny", *FEW, task="ceval", data=CHINESE)
    assert results["run"]["split"] == "val"
    assert list(results["categories"]) == ["STEM", "Humanities"]


def test_cmmlu(evaluated, tmp_path):
    """The Chinese questions in CMMLU's layout."""
    for split, source in (("dev", "dev"), ("test", "val")):
        (tmp_path / "cmmlu" / split).mkdir(parents=True)
        text = (CHINESE / source / f"logic_{source}.csv").read_text("utf-8")
        header, rows = text.split("\n", 1)
        assert header == "id,question,A,B,C,D,answer"
        (tmp_path / "cmmlu" / split / "logical.csv").write_text(f",Question,A,B,C,D,Answer\n{rows}", "utf-8")
    results = evaluated("--model_name_or_path", "chatglm-6b-tiny", *FEW, task="cmmlu", data=tmp_path / "cmmlu")
    assert results["total"]["question_n"] == 3 and list(results["categories"]) == ["Humanities"]


def test_answers_to_hand_in(evaluate, tmp_path):
    """Nobody has the right ones of C-Eval's test split, so there is no accuracy."""
    shutil.copytree(CHINESE / "dev", tmp_path / "ceval" / "dev")
    (tmp_path / "ceval" / "test").mkdir()
    rows = "".join(f"{i},问{i},甲,乙,丙,丁\n" for i in (7, 9))
    (tmp_path / "ceval" / "test" / "logic_test.csv").write_text(f"id,question,A,B,C,D\n{rows}", "utf-8")
    where = ["--model_name_or_path", "glm-4-9b-0414-tiny", "--split", "test"]
    code, out, err = evaluate(*where, task="ceval", data=tmp_path / "ceval")
    assert code == 0, err
    answers = json.loads((tmp_path / "out" / "submission.json").read_text("utf-8"))
    assert answers.keys() == {"logic"} and answers["logic"].keys() == {"7", "9"}
    assert set(answers["logic"].values()) <= set("ABCD")
    assert not (tmp_path / "out" / "results.json").exists() and "acc" not in out
    assert f"2 answers to hand in, whose right ones are hidden: {tmp_path / 'out' / 'submission.json'}" in out


needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real MMLU files are not here")


@needs_real
@pytest.mark.long
def test_real_questions(evaluated):
    some = ["--subjects", "other", "sociology", "--limit", "2"]
    results = evaluated("--model_name_or_path", CHAT, *some, data=REAL / "test")
    assert list(results["subjects"]) == ["nutrition", "sociology"]
    assert results["notes"] == {} and all(record["shots"] == 5 for record in results["questions"])


@needs_real
def test_real_questions_that_are_too_long(evaluate, tmp_path):
    """For a model of 1,024 positions, with five examples or even without any."""
    some = ["--subjects", "high_school_european_history", "astronomy", "--limit", "4"]
    code, _, err = evaluate("--model_name_or_path", "glm-tiny-chinese", *some, data=REAL)
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    shots = [record["shots"] for record in results["questions"]]
    assert all(0 < count < 5 for count in shots[:4]) and shots[4:] == [0, 0, None, None]
    assert letters(results)[6:] == ["", ""] and results["total"]["question_n"] == 8
    assert "2 of 8 questions were too long for the model\n" in err
    assert "6 of 8 questions were asked with fewer shots\n" in err


def killed(monkeypatch, after: int):
    """Ends the next run behind so many answers, as Ctrl-C does."""
    real = examinees._record
    count = iter(range(after))

    def record(*arguments):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(examinees, "_record", record)


WAYS = {
    "scored": [],
    "another batch size": ["--batch_size", "3"],
    "written": ["--generate", "--tgt_length", "4"],
}


def goes_on(evaluate, evaluated, monkeypatch, tmp_path, where, after) -> None:
    """A run that is killed, in the middle of a subject, ends with the files of one that is not."""
    for name in ("SCORED", "WRITTEN"):
        monkeypatch.setattr(command, name, 8)
    monkeypatch.setattr(examinees, "_DIGITS", 12)  # all bits of a float
    evaluated(*where, name="whole")
    with monkeypatch.context() as patched:
        killed(patched, after)
        assert evaluate(*where)[0] == 130
    assert not (tmp_path / "out" / "results.json").exists()
    lines = len((tmp_path / "out" / "questions.jsonl").read_bytes().splitlines()) - 1
    code, _, err = evaluate(*where)
    assert code == 0, err
    assert after - 8 < lines <= after and (f"{lines} answers are in " in err) == bool(lines)
    for name in ("questions.jsonl", "results.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("after", [5, 19])
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_goes_on(evaluate, evaluated, monkeypatch, tmp_path, way, after):
    goes_on(evaluate, evaluated, monkeypatch, tmp_path, ["--model_name_or_path", CHAT, *WAYS[way]], after)


def test_a_finished_run_loads_no_model(evaluate, monkeypatch, tmp_path):
    where = ["--model_name_or_path", CHAT, *FEW]
    _, first, _ = evaluate(*where)
    monkeypatch.setattr(evaluate_generation, "examinee_of", None)
    code, second, err = evaluate(*where)
    assert code == 0 and second == first
    assert f"6 answers are in {tmp_path / 'out' / 'questions.jsonl'}: going on behind them" in err


def test_another_run_in_the_same_directory(evaluate, evaluated):
    evaluated("--model_name_or_path", CHAT, *FEW)
    code, _, err = evaluate("--model_name_or_path", CHAT, "--limit", "2")
    assert code == 2 and "holds" not in err
    assert "has the records of another run: limit is 3 there and 2 here: choose another --output_dir" in err
    code, _, err = evaluate("--model_name_or_path", "glm-4-9b-0414-tiny", *FEW)
    assert code == 2 and f'the model is "{CHAT}" there and "glm-4-9b-0414-tiny" here' in err
    results = evaluated("--model_name_or_path", CHAT, "--limit", "2", "--overwrite_output_dir")
    assert results["total"]["question_n"] == 4


@pytest.fixture(scope="module")
def exports_of(tmp_path_factory):
    """A preset in both formats, written once."""
    import export_generation_model

    @cache
    def export(preset: str) -> Path:
        folder = tmp_path_factory.mktemp(preset)
        for form in ("paddle", "onnx") if sys.version_info >= (3, 11) else ("paddle",):
            with pytest.MonkeyPatch.context() as patched:
                where = ["--model_name_or_path", preset, "--output_path", str(folder / "glm"), "--format", form]
                patched.setattr(sys, "argv", ["export_generation_model.py", *where])
                export_generation_model.main()
        return folder

    return export


@pytest.fixture
def exports(exports_of):
    return exports_of(CHAT)


needs_onnx = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")


@pytest.mark.long
@pytest.mark.parametrize("backend", ["paddle", pytest.param("onnx_runtime", marks=needs_onnx)])
@pytest.mark.parametrize("preset", [CHAT, LATENT])
def test_an_export_answers_as_the_model(evaluated, exports_of, preset, backend):
    exports = exports_of(preset)
    model = evaluated("--model_name_or_path", preset, *FEW, name="model")
    export = evaluated("--model_path", exports, "--backend", backend, *FEW)
    assert letters(export) == letters(model)
    scores = [[record["scores"] for record in each["questions"]] for each in (export, model)]
    assert np.allclose(*scores, atol=5e-4)
    written = ["--generate", "--tgt_length", "6", "--limit", "2"]
    texts = [
        [record["text"] for record in evaluated(*where, *written, name=name)["questions"]]
        for name, where in (
            ("words", ["--model_name_or_path", preset]),
            ("words-export", ["--model_path", exports, "--backend", backend]),
        )
    ]
    assert texts[0] == texts[1] and any(texts[0])


@needs_onnx
@pytest.mark.long
def test_a_killed_run_of_an_export_goes_on(evaluate, evaluated, monkeypatch, tmp_path, exports):
    goes_on(evaluate, evaluated, monkeypatch, tmp_path, ["--model_path", exports, "--backend", "onnx_runtime"], 30)


@pytest.mark.long
def test_answers_in_words(evaluated, monkeypatch, capsys):
    """The text is what predict_generation.py writes for the question."""
    import predict_generation
    from glm.datasets.multiple_choice.benchmarks import BENCHMARKS
    from glm.datasets.multiple_choice.read import Wanted, read_benchmark
    from glm.evaluation.multiple_choice.prompts import asked

    results = evaluated("--model_name_or_path", CHAT, "--generate", "--tgt_length", "8", "--limit", "1")
    assert results["run"]["num_shots"] == 0 and results["run"]["method"] == "generated text"
    subjects, _ = read_benchmark(BENCHMARKS["mmlu"], str(ENGLISH), Wanted(num_shots=0))
    question = asked(BENCHMARKS["mmlu"], subjects[0].questions[0])
    where = ["--model_name_or_path", CHAT, "--tgt_length", "8", question]
    _, out, _ = run_main(predict_generation.main, monkeypatch, capsys, *where)
    assert out.endswith(f"  → {results['questions'][0]['text']}\n")


def test_an_adapter_is_another_model(evaluated, evaluate, model, adapter, tmp_path):
    """It is merged before anything is asked, and its digest is part of the run."""
    from glm.api.predictor import Predictor

    where = ["--model_name_or_path", model, *FEW]
    base, adapted = evaluated(*where, name="base"), evaluated(*where, "--lora_path", adapter)
    code, _, err = evaluate(*where)
    assert code == 2 and f'the model is "{model} + {adapter}" there and "{model}" here' in err
    Predictor.load(str(model), adapter).save(tmp_path / "merged")
    merged = evaluated("--model_name_or_path", tmp_path / "merged", *FEW, name="of-merged")
    scores = [[record["scores"] for record in each["questions"]] for each in (base, adapted, merged)]
    assert np.allclose(scores[1], scores[2], atol=2e-4)
    assert not np.allclose(scores[0], scores[1], atol=1e-2)


WRONG = {
    "no model": ([], "give --model_name_or_path for a model, or --model_path for an export: one of them"),
    "both": (["--model_name_or_path", CHAT, "--model_path", "x"], "one of them"),
    "foreign": (["--model_name_or_path", CHAT, "--backend", "paddle"], "--backend does nothing for a model: leave it"),
    "other way": (["--model_path", "x", "--dtype", "float32"], "--dtype does nothing for an export: leave it out"),
    "shots": (["--model_name_or_path", CHAT, "--num_shots", "-1"], "num_shots is -1, and must be at least 0"),
    "limit": (["--model_name_or_path", CHAT, "--limit", "0"], "limit is 0, and must be at least 1"),
    "batch": (["--model_name_or_path", CHAT, "--batch_size", "0"], "batch_size is 0, and must be at least 1"),
    "length": (["--model_name_or_path", CHAT, "--tgt_length", "9"], "--tgt_length is for answers in words: add"),
    "cache": (["--model_path", "x", "--kv_cache_size", "1GiB"], "--kv_cache_size is for answers in words, scores need"),
    "form": (["--model_name_or_path", CHAT, "--prompt_form", "lm_eval", "--generate"], "--prompt_form is for log"),
    "degree": (["--model_name_or_path", CHAT, "--tensor_parallel_degree", "2"], "tensor_parallel_degree is 2, and 1"),
    "subject": (["--model_name_or_path", CHAT, "--subjects", "law"], "subject 'law' is not in the data: there are"),
    "chat": (["--model_name_or_path", "glm-tiny-chinese", "--generate"], "a GLM (2021) model holds no conversations"),
    "split": (["--model_name_or_path", CHAT, "--split", "train"], "split is 'train', and mmlu has test and val"),
    "data": (["--model_name_or_path", CHAT, "--data_path", "no"], "data_path no does not exist: give the folder"),
    "a file": (["--model_name_or_path", CHAT, "--output_dir", __file__], "test_evaluate_script.py is a file: choose"),
    "format": (["--model_path", "nowhere"], "nowhere is not a directory; give the one that export_generation_model"),
}


@pytest.mark.parametrize(("flags", "said"), WRONG.values(), ids=WRONG)
def test_wrong_flags_are_one_line(evaluate, flags, said):
    code, out, err = evaluate(*flags)
    assert code in (1, 2) and out == ""
    assert said in err.splitlines()[-1] and "Traceback" not in err, err


def test_a_bad_row(evaluate, evaluated, tmp_path):
    shutil.copytree(ENGLISH, tmp_path / "data")
    path = tmp_path / "data" / "test" / "miscellaneous_test.csv"
    path.write_text("Which?,a,b,c,d,None\n" + path.read_text("utf-8"), "utf-8")
    where = ["--model_name_or_path", CHAT, "--limit", "1"]
    code, _, err = evaluate(*where, data=tmp_path / "data")
    assert code == 1
    assert err.splitlines()[-1].startswith(
        f"error: {path}, line 1: the answer is 'None', and must be one of A, B, C, D"
    )
    code, _, err = evaluate(*where, "--skip_bad_rows", data=tmp_path / "data")
    assert code == 0 and f"{tmp_path / 'data'}: 1 bad row left out\n" in err

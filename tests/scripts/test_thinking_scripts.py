"""--enable_thinking of every script that has it: prompts are the template's, and a model without the switch says so."""

import json
import math

import pytest
from commands import ROOT, predictions
from served_process import Served, write_export
from tiny_chat import write_thinking_model

import evaluate_generation
from glm.api.predictor import Predictor
from tests.in_process import run_main

QUESTION = "云溪桥建于哪一年？"
LIMIT = ["--src_length", "200", "--tgt_length", "10"]
SWITCHES = {"true": True, "false": False}
EXAM = ["--task", "mmlu", "--data_path", str(ROOT / "data" / "exam_en"), "--generate", "--limit", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_thinking_model(tmp_path_factory.mktemp("thinking") / "model")


@pytest.fixture(scope="module")
def export(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking-export")
    write_export(model, folder)
    return folder


@pytest.fixture(scope="module")
def wanted(model) -> dict[str, str]:
    """What the model writes behind the template's own prompts."""
    predictor = Predictor.load(str(model), device="cpu", lengths=(200, 10))
    tokenizer, config = predictor.processor.tokenizer, predictor.processor.generation_config()
    asked = {"messages": [{"role": "user", "content": QUESTION}], "add_generation_prompt": True}
    prompts = [tokenizer.apply_chat_template(**asked, enable_thinking=value) for value in SWITCHES.values()]
    answers = map(predictor.processor.answer, predictor.generate(prompts, config))
    texts = dict(zip(SWITCHES, answers, strict=True))
    assert texts["true"] != texts["false"]
    return texts


@pytest.mark.parametrize("switch", SWITCHES)
def test_predict(run, model, wanted, switch):
    where = ["--model_name_or_path", model, *LIMIT, "--enable_thinking", switch]
    result = run("predict_generation.py", *where, QUESTION)
    assert result.code == 0, result.err
    assert result.texts == [wanted[switch]]


@pytest.mark.parametrize("switch", SWITCHES)
def test_infer(run, export, wanted, switch):
    result = run("infer_generation.py", "--model_path", export, *LIMIT, "--enable_thinking", switch, QUESTION)
    assert result.code == 0, result.err
    assert result.texts == [wanted[switch]]


def test_evaluate(model, monkeypatch, capsys, tmp_path):
    """Both give other texts, and a run of one does not go on with the other's."""
    where = ["--model_name_or_path", str(model), "--tgt_length", "6"]
    texts = {}
    for switch, value in SWITCHES.items():
        out = ["--output_dir", str(tmp_path / switch), "--enable_thinking", switch]
        code, _, err = run_main(evaluate_generation.main, monkeypatch, capsys, *EXAM, *where, *out)
        assert code == 0, err
        results = json.loads((tmp_path / switch / "results.json").read_text("utf-8"))
        assert results["run"]["enable_thinking"] is value
        texts[switch] = [record["text"] for record in results["questions"]]
    assert len(texts["true"]) == len(texts["false"]) == 4 and texts["true"] != texts["false"]
    out = ["--output_dir", str(tmp_path / "true"), "--enable_thinking", "false"]
    code, _, err = run_main(evaluate_generation.main, monkeypatch, capsys, *EXAM, *where, *out)
    assert code != 0 and "enable_thinking" in err


def tune(run, model, folder, out, *arguments):
    rows = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "1920年"}]}
    for name in ("train", "dev"):
        (folder / f"{name}.json").write_text(json.dumps(rows) + "\n", encoding="utf-8")
    where = ["--model_name_or_path", model, "--task_name", "messages", "--data_path", folder, "--output_dir", out]
    steps = ["--do_train", "--do_eval", "--max_steps", "1", "--learning_rate", "1e-3"]
    return run("finetune_instruction_generation.py", *where, *LIMIT, *steps, *arguments)


def test_finetune(run, model, tmp_path):
    """Rows are trained behind the prompts that prediction writes: it repeats what was evaluated, with the same flag."""
    first = {}
    for switch in SWITCHES:
        out, flag = tmp_path / switch, ["--enable_thinking", switch]
        result = tune(run, model, tmp_path, out, *flag)
        assert result.code == 0, result.err
        first[switch] = json.loads((out / "loss_history.jsonl").read_text().splitlines()[0])["loss"]
        result = run("predict_generation.py", "--model_name_or_path", out, *LIMIT, *flag, QUESTION)
        assert result.texts == predictions(out)
    assert not math.isclose(first["true"], first["false"], rel_tol=1e-3)


def test_serve(export, wanted):
    """What the flag says counts until a request says otherwise."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 10, "temperature": 0}
    with Served("--model_path", export, "--max_num_seqs", "1", "--enable_thinking", "false") as served:
        assert json.loads(served.ask("/page.json")[1])["thinking"] is False
        for more, switch in (({}, "false"), ({"chat_template_kwargs": {"enable_thinking": True}}, "true")):
            status, raw = served.ask("/v1/chat/completions", body | more)
            assert status == 200, raw
            message = json.loads(raw)["choices"][0]["message"]
            assert message["content"] == wanted[switch]


NO_SWITCH = "error: this model's chat template reads no variable 'enable_thinking'; it reads none"
OLD = "error: enable_thinking is for chat models whose template has it: leave it out"


@pytest.mark.parametrize("script", ["predict", "evaluate", "finetune"])
@pytest.mark.parametrize("kind", ["glm4", "chatglm"])
def test_a_model_that_cannot_think_refuses(run, chat_models, tmp_path, script, kind):
    flag, model = ["--enable_thinking", "true"], chat_models[kind]
    if script == "predict":
        result = run("predict_generation.py", "--model_name_or_path", model, *LIMIT, *flag, QUESTION)
    elif script == "evaluate":
        out = ["--output_dir", tmp_path / "out"]
        result = run("evaluate_generation.py", *EXAM, "--model_name_or_path", model, *out, *flag)
    else:
        result = tune(run, model, tmp_path, tmp_path / "out", *flag)
    assert (result.code, result.error) == (2, NO_SWITCH), result.err
    assert "Traceback" not in result.err and result.out == ""


def test_an_export_that_cannot_think_refuses(run, chat_models, tmp_path):
    write_export(chat_models["glm4"], tmp_path)
    flag = ["--enable_thinking", "false"]
    result = run("infer_generation.py", "--model_path", tmp_path, *LIMIT, *flag, QUESTION)
    assert (result.code, result.error) == (2, NO_SWITCH), result.err
    with pytest.raises(AssertionError, match=f'\\["{NO_SWITCH}"\\]'):
        Served("--model_path", tmp_path, *flag)


def test_other_values_and_models_are_refused(run):
    where = ["--model_name_or_path", "glm-tiny-chinese", *LIMIT]
    result = run("predict_generation.py", *where, "--enable_thinking", "true", "云")
    assert (result.code, result.error) == (2, OLD)
    result = run("predict_generation.py", *where, "--enable_thinking", "maybe", "云")
    assert result.error == "error: argument --enable_thinking: 'maybe' is neither true nor false (see --help)"

"""The scripts on tiny chat models: conversations, prompts from files, exported graphs, fine-tuning."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from commands import ROOT, TINY, predictions
from tiny_chat import GENERATION_FILES, KINDS

import infer_generation
from glm.api.causal_lm import GLMForCausalLM
from glm.api.predictor import Predictor
from glm.cli.prompts import check_dialogue
from glm.encoding.processor import open_processor
from glm.errors import UsageError
from glm.evaluation.metrics import WORD_METRICS
from glm.inference.exported import ExportOptions, open_export

needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")
ASKED = ["你好", "云溪桥建于哪一年？", "a"]
LIMIT = ["--src_length", "200", "--tgt_length", "10"]


@pytest.fixture(scope="module")
def predict(run, chat_models):
    def predicted(kind, *arguments, code=0, **options):
        result = run("predict_generation.py", "--model_name_or_path", chat_models[kind], *LIMIT, *arguments, **options)
        assert result.code == code, result.err
        return result

    return predicted


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.txt"
    path.write_text("".join(f"{text}\n" for text in ASKED), encoding="utf-8")
    return path


def conversed(directory, *queries, history=()) -> list[str]:
    """The answers of model.chat to one question after the other."""
    model, processor = GLMForCausalLM.from_pretrained(directory), open_processor(directory, (200, 10))
    model.eval()
    answers, history = [], list(history)
    for query in queries:
        answer, history = model.chat(processor, query, history)
        answers.append(answer)
    return answers


def answers(out: str) -> list[str]:
    return out.removesuffix("\n").split("\n")


# --chat


@pytest.fixture(scope="module")
def one_line_answers(chat_models):
    """Whether no answer has a line end, so that a printed line is an answer."""
    return {kind: conversed(chat_models[kind], *ASKED[:2]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_what_model_chat_gives(predict, one_line_answers, kind):
    result = predict(kind, "--chat", stdin="你好\n  云溪桥建于哪一年？\n/exit\n不再\n")
    assert result.out == "".join(f"{answer}\n" for answer in one_line_answers[kind])
    assert len(re.findall(r"^\d+ tokens in [\d.]+ s: [\d.]+ tokens/s$", result.err, re.MULTILINE)) == 2


def test_clear_forgets_and_the_system_message_stays(predict, chat_models):
    system = [{"role": "system", "content": "a"}]
    first, second = conversed(chat_models["glm4"], "你好", "桥", history=system)
    result = predict("glm4", "--chat", "--system", "a", stdin="你好\n\n桥\n/clear\n你好\n")
    assert result.out == f"{first}\n{second}\n{first}\n"
    assert first != conversed(chat_models["glm4"], "你好")[0]
    assert "/clear forgets the conversation" in result.err


def test_a_turn_that_does_not_fit_ends_nothing(predict, chat_models):
    result = predict("glm4", "--chat", stdin="桥" * 250 + "\n你好\n")
    assert "error: the last turn has 255 tokens, and the prompt's limit is 200: raise src_length\n" in result.err
    assert answers(result.out) == conversed(chat_models["glm4"], "你好")


def test_a_system_message_for_a_model_without_one(predict):
    result = predict("chatglm", "--chat", "--system", "a", stdin="你好\n", code=2)
    assert "this model's conversations have no system message: leave out --system" in result.err
    assert result.out == ""


def test_questions_that_are_not_utf8(predict):
    result = predict("glm4", "--chat", stdin="你好\n".encode("gbk"), code=1)
    assert result.error == "error: standard input is not UTF-8: convert it first"


def test_glm_2021_holds_no_conversation(run):
    result = run("predict_generation.py", "--model_name_or_path", TINY, "--chat", stdin="你好\n")
    assert (result.code, result.error) == (2, "error: a GLM (2021) model holds no conversations: leave out --chat")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": ["云"]}, "--chat reads questions from standard input .*: leave out TEXT"),
        ({"predict_data": "云"}, "leave out --predict_data"),
        ({"output_file": Path("x")}, "leave out --output_file"),
        ({"plain": True}, "leave out --plain"),
        ({"chat": False, "system": "a"}, "--system begins a conversation: add --chat"),
    ],
)
def test_flags_that_do_nothing_are_refused(given, message):
    none = {"chat": True, "system": None, "texts": [], "input_file": None, "predict_data": None, "output_file": None}
    with pytest.raises(UsageError, match=message):
        check_dialogue(argparse.Namespace(**none | {"plain": False} | given))


# --predict_data


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_from_a_file(predict, questions, tmp_path, kind):
    """The seeds' flags; three prompts together give what each gives alone, and what --stream gives."""
    result = predict(kind, "--predict_data", questions, "--predict_batch_size", "3", cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "text_generation_result.txt").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == ASKED
    assert [row["text_generation_text"] for row in rows] == [[text] for text in result.texts]
    assert "results written to text_generation_result.txt\n" in result.err
    assert re.search(r"^\d+ tokens in [\d.]+ s: [\d.]+ tokens/s$", result.err, re.MULTILINE)
    streamed = predict(kind, *ASKED, "--stream", cwd=tmp_path)
    assert streamed.texts == result.texts
    assert len(set(result.texts)) == 3


def test_one_prompt_as_text(predict, tmp_path):
    result = predict("glm4", "--predict_data", "你好", "--predict_batch_size", "1", cwd=tmp_path)
    (row,) = map(json.loads, (tmp_path / "text_generation_result.txt").read_text("utf-8").splitlines())
    assert row == {"text": "你好", "text_generation_text": result.texts}
    assert result.out.startswith("你好\n  → ")


def test_a_file_of_prompts_that_is_not_there(predict):
    result = predict("glm4", "--predict_data", "promts.txt", code=2)
    assert result.error == "error: promts.txt cannot be read: No such file or directory"


def test_arguments_from_a_file(run, chat_models, tmp_path):
    content = f"model_name_or_path: {chat_models['glm4']}\nsrc_length: 200\ntgt_length: 10\ntexts: [你好]\n"
    (tmp_path / "run.yaml").write_text(content, encoding="utf-8")
    result = run("predict_generation.py", tmp_path / "run.yaml", "--tgt_length", "5", "桥")
    assert result.out.startswith("桥\n  → "), result.err
    assert "5 tokens in " in result.err


# Export


DECODING = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "drawn": {"do_sample": True, "temperature": 2.0, "seed": 5},
}
_BEAMS, _DRAWN = ["--num_beams", "3"], ["--do_sample", "--temperature", "2", "--seed", "5"]
FLAGS = {"chatglm": _BEAMS, "chatglm2": _BEAMS, "chatglm3": _DRAWN, "glm4": _DRAWN, "glm4-0414": []}


@pytest.fixture(scope="module", params=KINDS)
def graph(request, run, chat_models, tmp_path_factory):
    """A kind of model, and the directory of its graph."""
    folder = tmp_path_factory.mktemp("graph")
    where = ["--model_name_or_path", chat_models[request.param], "--output_path", folder / "glm"]
    result = run("export_generation_model.py", *where)
    assert result.code == 0, result.err
    return request.param, folder


def test_the_scripts_agree(run, predict, graph, questions):
    kind, folder = graph
    arguments = ["--input_file", questions, "--batch_size", "3", *FLAGS[kind]]
    result = run("infer_generation.py", "--model_path", folder, *LIMIT, *arguments)
    assert result.code == 0, result.err
    assert result.texts == predict(kind, *arguments).texts
    assert len(set(result.texts)) == 3


@pytest.mark.parametrize("backend", ["paddle", pytest.param("onnx_runtime", marks=needs_onnx_runtime)])
def test_a_graph_converses(run, graph, chat_models, one_line_answers, tmp_path, backend):
    """The second prompt begins with the first one and its answer: where a prompt is read in parts, that is kept."""
    kind, folder = graph
    if backend == "onnx_runtime":
        folder = tmp_path
        where = ["--model_name_or_path", chat_models[kind], "--output_path", folder / "glm", "--format", "onnx"]
        assert run("export_generation_model.py", *where).code == 0
    where = ["--model_path", folder, "--backend", backend, "--device", "cpu"]
    result = run("infer_generation.py", *where, "--chat", *LIMIT, stdin="\n".join(ASKED[:2]))
    assert result.out == "".join(f"{answer}\n" for answer in one_line_answers[kind]), result.err
    assert ("prompt tokens already" in result.err) == (kind != "chatglm")


def test_the_graph_generates_what_the_model_generates(graph, chat_models):
    """Both as a program calls them, without a command line."""
    kind, folder = graph
    inferred, choice = open_export(ExportOptions(folder, device="cpu", lengths=(200, 10)))
    assert choice.device == "cpu"
    predicted = Predictor.load(str(chat_models[kind]), device="cpu", lengths=(200, 10))
    prompts = [inferred.processor.text_prompt(text) for text in ASKED]
    found = []
    for options in DECODING.values():
        config = predicted.processor.generation_config(**options)
        found.append(inferred.generate(prompts, config))
        assert found[-1] == predicted.generate(prompts, config), options
    assert found[0] != found[1] != found[2]


def test_max_length_alone_leaves_half_for_the_text(graph, monkeypatch):
    words = ["infer_generation.py", "--model_path", str(graph[1]), "--device", "cpu", "--max_length"]

    def lengths(*arguments):
        monkeypatch.setattr("sys.argv", [*words, *arguments])
        processor = open_export(infer_generation.options_of(infer_generation.parse()))[0].processor
        return processor.src_length, processor.tgt_length

    assert lengths("100") == (50, 50)
    assert lengths("100", "--tgt_length", "90") == (10, 90)
    with pytest.raises(
        UsageError, match="max_length 100 leaves 0 tokens for the source beside tgt_length 1024, and at"
    ):
        lengths("100", "--tgt_length", "1024")
    with pytest.raises(UsageError, match="max_length 6 leaves 3 tokens for the source beside tgt_length 3"):
        lengths("6")


# Fine-tuning


STEPS = ["--do_train", "--do_eval", "--max_steps", "2", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3"]
LORA = ["--lora", "True", "--lora_targets", "all", "--r", "4"]
LENGTHS = ["--src_length", "400", "--tgt_length", "20"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The first rows of the bundled samples."""
    folder = tmp_path_factory.mktemp("data")
    for task in ("adgen", "alpaca", "messages"):
        (folder / task).mkdir()
        for split, count in (("train", 8), ("dev", 3)):
            lines = (ROOT / "data" / task / f"{split}.json").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / task / f"{split}.json").write_text("".join(lines[:count]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tune(run, chat_models, data):
    def tuned(kind, task, out, *arguments, source=None):
        where = ["--model_name_or_path", chat_models[kind], "--output_dir", out]
        where += ["--task_name", task, "--data_path", source or data / task]
        return run("finetune_instruction_generation.py", *where, *LENGTHS, *arguments)

    return tuned


def metrics(directory: Path) -> dict[str, float]:
    return json.loads((directory / "eval_results.json").read_text(encoding="utf-8"))


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "loss_history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "task", "lora"),
    [
        ("chatglm", "adgen", []),
        ("glm4", "alpaca", []),
        ("glm4-0414", "messages", []),
        pytest.param("chatglm", "alpaca", LORA, marks=pytest.mark.slow),
        pytest.param("glm4", "messages", LORA, marks=pytest.mark.slow),
        ("glm4-0414", "adgen", LORA),
    ],
    ids=lambda value: value if isinstance(value, str) else "lora" if value else "full",
)
def test_fine_tuning(tune, tmp_path, kind, task, lora):
    result = tune(kind, task, tmp_path / "out", *STEPS, *lora)
    assert result.code == 0, result.err
    found = metrics(tmp_path / "out")
    assert {f"eval_{name}" for name in (*WORD_METRICS, "loss")} <= found.keys()
    assert all(0 <= found[f"eval_{name}"] <= 100 for name in WORD_METRICS)
    assert len(losses(tmp_path / "out")) == 2
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("lora_config.json" in files) == bool(lora)
    assert ("model.safetensors" in files) != bool(lora)
    assert files >= {"tokenizer_config.json", "eval_predictions.jsonl", "loss.png"}
    if kind in GENERATION_FILES:
        saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert saved == GENERATION_FILES[kind]


def test_an_interrupted_adapter_continues_and_predicts_what_it_evaluated(tune, predict, data, tmp_path):
    out = tmp_path / "out"
    once = [*STEPS, *LORA, "--learning_rate", "1e-2", "--save_steps", "1"]
    once += ["--eval_steps", "1", "--load_best_model_at_end", "True", "--metric_for_best_model", "rouge-l"]
    result = tune("glm4", "adgen", out, *once)
    assert result.code == 0, result.err
    assert len(re.findall(r"step [12]/2: evaluation: loss [\d.]+, BLEU-4 [\d.]+, ROUGE-L [\d.]+\n", result.err)) == 2
    history = [json.loads(line) for line in (out / "eval_history.jsonl").read_text().splitlines()]
    best = json.loads((out / "trainer_state.json").read_text())["best_metric"]
    assert best == max(row["eval_rouge-l"] for row in history)
    before = losses(out), metrics(out), predictions(out)
    for name in ("lora_model_state.pdparams", "eval_results.json", "eval_predictions.jsonl"):
        (out / name).unlink()
    shutil.rmtree(out / "checkpoint-2")
    result = tune("glm4", "adgen", out, *once)
    assert f"resuming from {out / 'checkpoint-1'}" in result.err
    assert (losses(out), metrics(out), predictions(out)) == before
    sources = [json.loads(line)["content"] for line in (data / "adgen/dev.json").read_text("utf-8").splitlines()]
    texts = predict("glm4", "--lora_path", out, *LENGTHS, *sources).out
    assert texts == "".join(f"{s}\n  → {p}\n" for s, p in zip(sources, predictions(out), strict=True))


def test_what_is_left_out_is_said(tune, tmp_path):
    """Once each, with its number; a question of an evaluation row that is too long is cut, and stops nothing."""

    def row(question, answer, **fields):
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **fields}]

    train = [
        {"messages": row("桥", "好"), "id": 1},
        {"messages": row("桥", "")},
        {"messages": row("桥", "好", reasoning_content="嗯") + row("湖", "好", weight=0) + row("塔", " ")},
    ]
    dev = [{"messages": row("桥" * 410, "好")}, {"messages": row("桥", "好")}]
    for name, rows in (("train", train), ("dev", dev)):
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = tune("glm4", "messages", tmp_path / "out", *STEPS, "--max_steps", "1", source=tmp_path)
    assert result.code == 0, result.err
    cut = "their oldest turns are lost, in evaluation then the end of the question"
    for line in (
        f"train: {tmp_path / 'train.json'}: 1 of 3 rows have fields that are not used: id",
        "train: rows left out: 1 whose answers are empty",
        "train: empty answers, not trained: 2",
        "train: answers without their thoughts, for which the model has no place: 1",
        f"truncated: 1 source to src_length 400 ({cut})",
    ):
        assert result.err.count(f"{line}\n") == 1, result.err
    assert len(predictions(tmp_path / "out")) == 2


def test_rows_that_a_model_has_no_place_for(tune, tmp_path):
    """ChatGLM-6B knows no system messages: the first row that has one is named, or they are left out and counted."""
    system = {"role": "system", "content": "a"}
    turns = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    rows = [{"messages": turns}, {"messages": [system, *turns]}, {"messages": turns}, {"messages": [system, *turns]}]
    source = tmp_path / "train.json"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train = [*STEPS[:1], *STEPS[2:]]
    result = tune("chatglm", "messages", tmp_path / "out", *train, source=source)
    line = "row 2 of 4: message 1 has the role 'system'; this model knows user, assistant: put its text into the user's"
    line += " question"
    assert (result.code, result.error) == (1, f"error: train: {line} (or pass --skip_bad_rows)")
    result = tune("chatglm", "messages", tmp_path / "out", *train, "--skip_bad_rows", source=source)
    assert result.code == 0, result.err
    assert f"train: rows left out: 2 bad, the first is {line}\n" in result.err

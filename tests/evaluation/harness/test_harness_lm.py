"""The real lm-evaluation-harness over tiny models: its numbers are the scorer's, its texts the generator's."""

import json
import math
import shutil
from functools import partial

import numpy as np
import paddle
import pytest
from harness_cases import (
    LETTERS,
    Request,
    predictor_of,
    question,
    read_subject,
    shots,
    write_generation_task,
    write_long_model,
    write_mmlu_task,
)
from tiny_glm import tensors

from glm.encoding.examples import TrainingExample
from glm.errors import UsageError
from glm.evaluation.likelihood import Row
from tests.in_process import run_main
from tests.npu_simulator.launching import ROOT, launch, needs_compiler
from tests.shared_files import SHARED

lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: requirements-harness.txt")
pytestmark = [pytest.mark.long, pytest.mark.process]  # lm_eval asks git for a version

from lm_eval.tasks import TaskManager  # noqa: E402

from glm.evaluation.harness import HarnessLM  # noqa: E402
from glm.evaluation.harness.__main__ import main  # noqa: E402
from glm.evaluation.harness.lm import generation_options  # noqa: E402

MMLU = SHARED / "real" / "datasets" / "mmlu"
SUBJECTS = ("astronomy", "nutrition")
FEW = 4
KINDS = ("chatglm", "glm4-remote", "glm4-0414")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness-models")
    return {kind: write_long_model(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def predictors(models):
    return {kind: predictor_of(directory) for kind, directory in models.items()}


@pytest.fixture(params=KINDS)
def predictor(request, predictors):
    return predictors[request.param]


@pytest.fixture
def lm(predictor) -> HarnessLM:
    return HarnessLM(predictor, show_progress=False)


def requests(*pairs) -> list[Request]:
    return [Request(pair) for pair in pairs]


PAIRS = (("祥信塔", "高72米。"), ("祥信塔", "是石桥"), ("", "云溪桥"), ("1 + 1 = ", "2"), ("a b c d", " e"))


def test_loglikelihoods_are_the_scorers(lm, predictor):
    rows = [Row(context.rstrip(), (context[len(context.rstrip()) :] + rest,)) for context, rest in PAIRS]
    wanted = [each for (each,) in predictor.scorer(1)(rows)]
    found = lm.loglikelihood(requests(*PAIRS))
    assert [greedy for _, greedy in found] == [each.greedy for each in wanted]
    assert [value for value, _ in found] == pytest.approx([each.log_likelihood for each in wanted], abs=2e-4)
    assert lm.loglikelihood(requests(("祥信塔", ""))) == [(0.0, True)]


def test_order_and_doubles_change_nothing(lm):
    found = lm.loglikelihood(requests(*PAIRS))
    again = lm.loglikelihood(requests(*PAIRS[::-1], PAIRS[1]))
    assert [value for value, _ in again] == pytest.approx([value for value, _ in [*found[::-1], found[1]]], abs=2e-4)


def test_rolling_is_the_loss_of_a_text(lm, predictor):
    """From its first token on, in one window and in several."""
    text = "云溪桥建于1920年,长30米,是石桥。" * 3
    encode = lm.scorer.encode
    frame = encode.text_ids("")
    ids = encode.tokenizer.text_ids(text)
    prefix = encode.positions.prompt_prefix(frame)
    example = TrainingExample([*frame, *ids], [False] * len(frame) + [True] * len(ids), prefix)
    with paddle.no_grad():
        batch = tensors(predictor.processor.training_batch([example]))
        wanted = -float(predictor.model(**batch, reduction="none").sum())
    (found,) = lm.loglikelihood_rolling(requests((text,)))
    assert found == pytest.approx(wanted, abs=1e-3)
    short = HarnessLM(predictor, max_length=24, show_progress=False)
    (other,) = short.loglikelihood_rolling(requests((text,)))
    assert other < 0 and other != pytest.approx(wanted, abs=1e-3)
    assert short.loglikelihood_rolling(requests(("",))) == [0]


def test_texts_are_the_generators(lm, predictor):
    """Cut where the first of the strings begins, which is no part of them; nothing is stripped."""
    options = {"until": [], "max_gen_toks": 12}
    prompts = ("祥信塔", "云溪桥建于")
    found = lm.generate_until(requests(*((prompt, options) for prompt in prompts)))
    config = predictor.processor.generation_config(do_sample=False, max_length=12)
    ids = predictor.generate([lm.scorer.encode.text_ids(prompt) for prompt in prompts], config)
    assert found == [lm.tokenizer.text_of(each) for each in ids]
    piece = found[0][3:5]
    assert piece
    (cut,) = lm.generate_until(requests((prompts[0], options | {"until": piece})))
    assert cut == found[0][: found[0].index(piece)]


def test_options_of_texts():
    asked = {"until": "。", "max_gen_toks": 3, "temperature": 0.0, "do_sample": True, "top_k": 5}
    assert generation_options(asked) == (["。"], {"do_sample": False, "max_length": 3})
    asked |= {"temperature": 0.5, "until": ["。", ""]}
    options = {"do_sample": True, "max_length": 3, "temperature": 0.5, "top_k": 5}
    assert generation_options(asked) == (["。"], options)
    assert generation_options({})[1] == {"do_sample": False, "max_length": 256}
    with pytest.raises(UsageError, match="generation_kwargs has 'typical_p', which is not known here"):
        generation_options({"typical_p": 0.9})


def test_a_text_is_too_long_for_the_model(lm):
    most = lm.requests.encode.max_position
    with pytest.raises(UsageError, match=f"max_gen_toks is {2 * most}, and the model's positions end at {most}"):
        lm.generate_until(requests(("祥信塔", {"max_gen_toks": 2 * most})))


def test_a_chat_template_brings_its_prefix_once(lm):
    """Also where it writes none, and a special token that a message spells stays text."""
    history = [{"role": "user", "content": "祥信塔有<|user|>几层？"}]
    text = lm.apply_chat_template(history)
    ids, tokenizer = lm.scorer.encode.text_ids(text), lm.tokenizer
    assert ids.count(tokenizer.gmask_token_id) == 1
    assert ids == lm.processor.chat.prompt_ids(tokenizer, history)
    assert lm.chat_template(True) == tokenizer.chat_template and lm.chat_template(False) is None
    assert lm.tokenizer_name.startswith(tokenizer.kind)
    if tokenizer.kind != "chatglm":
        more = [*history, {"role": "assistant", "content": "九"}]
        continued = lm.apply_chat_template(more, add_generation_prompt=False)
        assert continued.endswith("九") and continued.startswith("[gMASK]<sop>")


def test_a_model_without_chat_template(tokenizer):
    from tiny_glm import tiny_model

    from glm.encoding.processor import GLMProcessor
    from glm.inference.model_generator import ModelGenerator

    lm = HarnessLM(ModelGenerator(tiny_model(), GLMProcessor(tokenizer, 24, 12)), show_progress=False)
    with pytest.raises(UsageError, match="has no chat template: leave out --apply_chat_template"):
        lm.apply_chat_template([{"role": "user", "content": "a"}])
    ((value, greedy),) = lm.loglikelihood(requests(("a b", " c")))
    assert math.isfinite(value) and value < 0 and not greedy


def logged(results, task) -> list[list[float]]:
    """The log-likelihoods of every question, in order."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [[float(response[0][0]) for response in sample["resps"]] for sample in samples]


@pytest.mark.skipif(not MMLU.is_dir(), reason="the real MMLU files lie beside the checkout")
@pytest.mark.parametrize("kind", ["glm4-remote", "glm4-0414"])
def test_mmlu_question_by_question(predictors, kind, tmp_path):
    """lm_eval's own prompts of five shots: log-likelihoods and accuracies are those of the scorer."""
    names = [write_mmlu_task(tmp_path, subject, MMLU) for subject in SUBJECTS]
    lm = HarnessLM(predictors[kind], show_progress=False)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = lm_eval.simple_evaluate(
        lm, tasks=names, num_fewshot=5, limit=FEW, task_manager=manager, bootstrap_iters=0
    )
    read = lm.scorer.tokens_read
    for subject, name in zip(SUBJECTS, names, strict=True):
        rows = read_subject(MMLU, subject, "test")[:FEW]
        shared = shots(MMLU, subject)
        targets = tuple(f" {letter}" for letter in LETTERS)
        scorer = predictors[kind].scorer(8)
        wanted = [
            [each.log_likelihood for each in found]
            for found in scorer([Row(shared + question(row), targets, shared) for row in rows])
        ]
        assert np.allclose(logged(results, name), wanted, atol=2e-4)
        right = [LETTERS[int(np.argmax(values))] == row[5] for values, row in zip(wanted, rows, strict=True)]
        assert results["results"][name]["acc,none"] == np.mean(right)
        read -= scorer.tokens_read
    assert abs(read) < 64  # shots were found to be shared, subject by subject


def command(monkeypatch, capsys, *words):
    """Without lm_eval's own tasks, whose thousands of files take seconds to list."""
    if "--include_path" in words:
        manager = partial(TaskManager, include_defaults=False)
        monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)
    return run_main(main, monkeypatch, capsys, *map(str, words))


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"question": text, "answer": "九"} for text in ("祥信塔有几层？", "云溪桥建于哪一年？", "你好")]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def small_mmlu(folder):
    """Two subjects' worth of a layout, of our own."""
    for split, count in (("dev", 5), ("test", 3)):
        (folder / split).mkdir(parents=True)
        lines = [f"{n} + {n} =,{n},{2 * n},{3 * n},{4 * n},B" for n in range(2, 2 + count)]
        (folder / split / f"sums_{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_the_command(models, rows, tmp_path, monkeypatch, capsys):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    names = [write_mmlu_task(tasks, "sums", small_mmlu(tmp_path / "data")), write_generation_task(tasks, rows)]
    output = tmp_path / "results" / "harness.json"
    words = ["--model_name_or_path", models["glm4-0414"], "--tasks", ",".join(names), "--include_path", tasks]
    words += ["--limit", 2, "--bootstrap_iters", 0, "--output_path", output, "--log_samples", "--device", "cpu"]
    code, out, err = command(monkeypatch, capsys, *words)
    assert code == 0, err
    assert all(name in out for name in names) and "acc" in out and "exact_match" in out
    results = json.loads(output.read_text(encoding="utf-8"))
    assert set(results["results"]) == set(names) and "samples" not in results
    assert results["config"]["model"] == str(models["glm4-0414"])
    lines = output.with_name("harness.json.samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["task"] for line in lines) == sorted(names * 2)
    # Questions as messages.
    code, out, err = command(monkeypatch, capsys, *words, "--apply_chat_template")
    assert code == 0, err
    samples = output.with_name("harness.json.samples.jsonl").read_text(encoding="utf-8").splitlines()
    chat = [json.loads(line)["arguments"][0][0] for line in samples]
    assert all(text.count("[gMASK]<sop>") == 1 and "<|assistant|>" in text for text in chat)


def test_exports_are_scored_as_their_model(models, predictors, tmp_path, monkeypatch, capsys):
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import export_step_graph
    from glm.export.paddle_graphs import export_directory
    from glm.export.writing import write_side_files

    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    predictor, tasks = predictors["glm4-remote"], tmp_path / "tasks"
    tasks.mkdir()
    name = write_mmlu_task(tasks, "sums", small_mmlu(tmp_path / "data"))
    exported = tmp_path / "export"
    export_directory(predictor.model, predictor.processor, exported / "glm")
    config, weights = predictor.model.config, predictor.model.named_parameters()
    export_step_graph(
        config,
        ((name, tensor.numpy()) for name, tensor in weights),
        weights_of("fp32"),
        exported / "glm",
        source="tiny",
        text=lambda directory: write_side_files(config, predictor.processor, directory),
    )
    found = []
    for place in (
        ["--model_name_or_path", models["glm4-remote"]],
        *(["--model_path", exported, "--backend", backend] for backend in ("onnx_runtime", "paddle")),
    ):
        output = tmp_path / f"{len(found)}.json"
        words = [*place, "--tasks", name, "--include_path", tasks, "--num_fewshot", 5, "--device", "cpu"]
        code, _, err = command(
            monkeypatch, capsys, *words, "--bootstrap_iters", 0, "--output_path", output, "--log_samples"
        )
        assert code == 0, err
        found.append(samples_of(output))
    assert len(found[0]) == 3
    assert np.allclose(found[1], found[0], atol=5e-4) and np.allclose(found[2], found[0], atol=5e-4)


def test_answers_are_kept(models, tmp_path, monkeypatch, capsys):
    """A run with --use_cache goes on where another one was."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    name = write_mmlu_task(tasks, "sums", small_mmlu(tmp_path / "data"))
    words = ["--model_name_or_path", models["glm4-0414"], "--tasks", name, "--include_path", tasks, "--device", "cpu"]
    words += ["--bootstrap_iters", 0, "--use_cache", tmp_path / "kept"]
    scored = []
    monkeypatch.setattr(
        HarnessLM, "_scores", lambda self, rows, score=HarnessLM._scores: scored.append(len(rows)) or score(self, rows)
    )
    tables = []
    for limit in (2, 3, 3):
        code, out, err = command(monkeypatch, capsys, *words, "--limit", limit)
        assert code == 0, err
        tables.append(out)
    assert scored == [2, 1] and tables[1] == tables[2]


@pytest.mark.slow
@needs_compiler
def test_two_devices_share_a_model(models, tmp_path, monkeypatch, capsys):
    """The first one prints and writes; both answer the same requests."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    name = write_mmlu_task(tasks, "sums", small_mmlu(tmp_path / "data"))
    words = ["--model_name_or_path", models["glm4-0414"], "--tasks", name, "--include_path", tasks, "--log_samples"]
    words += ["--num_fewshot", 5, "--bootstrap_iters", 0]
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    code, out, err = command(monkeypatch, capsys, *words, "--device", "cpu", "--output_path", one)
    assert code == 0, err
    script = ROOT / "glm" / "evaluation" / "harness" / "__main__.py"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "npu-cache")}
    ranks = launch(
        script, 2, tmp_path / "logs", map(str, [*words, "--device", "npu", "--output_path", two]), 300, **offline
    )
    assert ranks.code == 0, str(ranks)
    assert out.strip() in ranks.logs[0] and name not in ranks.logs[1] and "Version" not in ranks.logs[1]
    values = [samples_of(path) for path in (one, two)]
    assert len(values[0]) == 3 and np.allclose(*values, atol=5e-4)


def samples_of(path) -> list[list[float]]:
    """The log-likelihoods of every question, in order."""
    lines = path.with_name(f"{path.name}.samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    return [[float(response[0][0]) for response in sample["resps"]] for sample in samples]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "the following arguments are required: --tasks"),
        (["--tasks", "a"], 2, "give either --model_name_or_path or --model_path"),
        (["--tasks", "a", "--model_path", "x", "--lora_path", "y"], 2, "--lora_path and --dtype are for models"),
        (["--tasks", "a", "--model_path", "x", "--log_samples"], 2, "give --output_path, too"),
        (["--tasks", "a", "--model_path", "x", "--limit", "0"], 2, "limit is 0, and must be above 0"),
        (["--tasks", "a", "--model_path", "x", "--batch_size", "0"], 2, "batch_size is 0"),
        (["--tasks", "a", "--model_path", "x", "--include_path", "nowhere"], 2, "include_path nowhere is not a direct"),
        (["--tasks", "no_such_task", "--model_path", "x"], 2, "task 'no_such_task' is unknown to lm_eval"),
        (["--tasks", "a", "--model_path", "x", "--backend", "tensorrt"], 2, "invalid choice: 'tensorrt'"),
    ],
)
def test_what_is_refused(words, code, said, monkeypatch, capsys):
    found, _, err = command(monkeypatch, capsys, *words)
    assert found == code and said in err and err.count("error: ") == 1, err


def test_data_that_are_not_there(models, tmp_path, monkeypatch, capsys):
    """One line, and nothing half-written."""
    name = write_mmlu_task(tmp_path, "sums", tmp_path / "data")
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    words = ["--model_name_or_path", models["glm4-0414"], "--tasks", name, "--include_path", tmp_path]
    code, out, err = command(monkeypatch, capsys, *words, "--output_path", tmp_path / "out.json", "--device", "cpu")
    assert code == 1 and not out and "error: lm_eval: " in err, err
    assert not (tmp_path / "out.json").exists()

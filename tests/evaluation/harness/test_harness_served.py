"""lm-evaluation-harness asks a running server as it asks any: its numbers are those of this project's own `LM`."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness_cases import Request, predictor_of, write_generation_task, write_long_model, write_mmlu_task
from served_process import ROOT, Served, write_export
from test_harness_lm import PAIRS, logged, requests, small_mmlu

lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: requirements-harness.txt")
pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
pytestmark = [pytest.mark.long, pytest.mark.process]

from lm_eval.models.openai_completions import LocalCompletionsAPI  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from glm.evaluation.harness import HarnessLM  # noqa: E402

[COMMAND] = [line for line in (ROOT / "docs/serving.md").read_text("utf-8").splitlines() if "-m lm_eval" in line]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module", params=["glm4-remote", "glm4-0414"])
def both(request, tmp_path_factory):
    """A model and the server of its export."""
    folder = tmp_path_factory.mktemp("served")
    model = write_long_model(folder / "model", request.param)
    write_export(model, folder / "export")
    with Served("--model_path", folder / "export", "--max_model_len", "4096", "--max_num_seqs", "4") as served:
        yield HarnessLM(predictor_of(model), show_progress=False), served


@pytest.fixture
def tasks(tmp_path) -> tuple[Path, list[str]]:
    """A folder of tasks whose answers are chosen and written, and their names."""
    folder, rows = tmp_path / "tasks", tmp_path / "rows.jsonl"
    folder.mkdir()
    lines = [{"question": text, "answer": "九"} for text in ("祥信塔有几层？", "云溪桥建于哪一年？", "你好")]
    rows.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return folder, [
        write_mmlu_task(folder, "sums", small_mmlu(tmp_path / "data")),
        write_generation_task(folder, rows),
    ]


def asking(served: Served, **options) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(model="glm", base_url=f"{served.url}/v1/completions", max_length=4096, **options)


WAYS = [{}, {"num_concurrent": 4}, {"batch_size": 3}, {"tokenized_requests": False}]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_scores_and_texts(both, options):
    """One by one, at once, in lists, as texts."""
    (lm, served), pairs = both, [pair for pair in PAIRS if pair[0]]
    wanted = lm.loglikelihood(requests(*pairs))
    found = asking(served, **options).loglikelihood(requests(*pairs))
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=5e-4)
    ends = (("祥信塔", []), ("1 + 1 = ", ["。", "a"]))
    asked = [(context, {"until": until, "max_gen_toks": 12}) for context, until in ends]
    assert asking(served, **options).generate_until(requests(*asked)) == lm.generate_until(requests(*asked))


def test_what_greedy_search_writes_is_greedy(both):
    """What the model itself writes after some texts, and the other way round: so both answers come up."""
    lm, served = both
    contexts = ("祥信塔", "云溪桥建于", "你好", "1 + 1 =", "a b c", "石桥。", "The answer is")
    texts = lm.generate_until([Request((context, {"until": [], "max_gen_toks": 1})) for context in contexts])
    pairs = [*zip(contexts, texts, strict=True), *zip(contexts, texts[::-1], strict=True)]
    wanted = [greedy for _, greedy in lm.loglikelihood(requests(*pairs))]
    assert {*wanted} == {True, False}
    assert [greedy for _, greedy in asking(served).loglikelihood(requests(*pairs))] == wanted


def test_question_by_question(both, tasks):
    """Tasks with shots, through lm_eval's own evaluation."""
    (lm, served), (folder, names) = both, tasks
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    options = {"tasks": names, "num_fewshot": 0, "task_manager": manager, "bootstrap_iters": 0}
    wanted, found = (lm_eval.simple_evaluate(each, **options) for each in (lm, asking(served, num_concurrent=2)))
    assert np.allclose(logged(found, names[0]), logged(wanted, names[0]), atol=5e-4)
    assert [sample["resps"] for sample in found["samples"][names[1]]] == [
        sample["resps"] for sample in wanted["samples"][names[1]]
    ]
    for name in names:
        figures = {metric: value for metric, value in wanted["results"][name].items() if isinstance(value, float)}
        assert figures and {metric: found["results"][name][metric] for metric in figures} == pytest.approx(figures)


def test_the_command(both, tasks, tmp_path):
    """The page's, for tasks of this computer."""
    (lm, served), (folder, names) = both, tasks
    line = COMMAND.replace("http://127.0.0.1:8000", served.url).replace("my_task ", f"{','.join(names)} ")
    words = shlex.split(line.replace("./my_tasks", str(folder)))
    assert words[:2] == ["python", "-m"]
    output = ["--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run([sys.executable, *words[1:], *output], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(re.search(rf"\|{name}\s*\|", done.stdout) for name in names), done.stdout
    [file] = (tmp_path / "out").rglob(f"samples_{names[0]}_*.jsonl")
    samples = sorted(map(json.loads, file.read_text("utf-8").splitlines()), key=lambda sample: sample["doc_id"])
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    wanted = lm_eval.simple_evaluate(lm, tasks=names[:1], task_manager=manager, bootstrap_iters=0)
    found = [[float(response[0][0]) for response in sample["resps"]] for sample in samples]
    assert np.allclose(found, logged(wanted, names[0]), atol=5e-4)

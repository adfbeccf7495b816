"""The READMEs' tour, as it stands there, in a directory of its own."""

import json
import re
import shlex

import pytest
from commands import ROOT
from test_serve_script import Served


def tour(readme: str) -> list[list[str]]:
    """The commands of the second sh block: words without the interpreter."""
    text = (ROOT / readme).read_text("utf-8")
    block = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)[1]
    return [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tour")


@pytest.fixture(scope="module")
def done(run, folder) -> dict[str, object]:
    """What each command printed, in their order."""
    results = {}
    for words in tour("README.md"):
        result = run(words[0], *words[1:], cwd=folder, stdin="你好\n/exit\n")
        assert result.code == 0, f"{words}: {result.err}"
        results[" ".join(words)] = result
    return results


def test_every_command_runs(done):
    scripts = [command.split()[0] for command in done]
    assert scripts == [
        "finetune_generation.py",
        "predict_generation.py",
        "export_generation_model.py",
        "infer_generation.py",
        "predict_generation.py",
    ]


def test_the_export_writes_what_the_model_writes(done):
    """Of 8 bits, on a trained model: the question that both ask."""
    model, export = (result.texts for command, result in done.items() if "祥信塔" in command)
    assert len(model) == len(export) == 1
    assert model[0].startswith("在已知答案的前提下") and export[0].startswith("在已知答案的前提下")


def test_it_converses(done):
    """What random weights say may be nothing at all."""
    command = next(command for command in done if command.endswith("--chat"))
    assert "tokens in" in done[command].err


def test_the_export_is_served(done, folder):
    """The block behind the tour's."""
    with Served("--model_path", folder / "output" / "tour-export") as server:
        prompt = {"prompt": "答案：9层，上下文：祥信塔共有9层。", "max_tokens": 32, "temperature": 0}
        status, answer = server.ask("/v1/completions", prompt)
    assert status == 200
    assert json.loads(answer)["choices"][0]["text"].startswith("在已知答案的前提下")

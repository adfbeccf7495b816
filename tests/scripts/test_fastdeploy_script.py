"""--backend fastdeploy. A real FastDeploy (>= 1.0) cannot be had from PyPI, so one test is a contract test: a stand-in
with FastDeploy 1.x's recorded interface, which runs the graph in Paddle Inference."""

import json

import pytest
from commands import SHORT

TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"
DOWNLOADER = '__version__ = "0.1.0"\n\n\ndef download(url):\n    """All that PyPI\'s package can do."""\n'
# What FastDeploy 1.x offers (RuntimeOption, Runtime), as far as a static graph needs it; anything else raises.
STAND_IN = """
import json
import os
from types import SimpleNamespace

from paddle import inference

__version__ = "1.0.7"


class RuntimeOption:
    def __init__(self):
        self.calls = []

    def set_model_path(self, model_path, params_path="", model_format="paddle"):
        self.model_path, self.params_path = model_path, params_path
        self.calls.append("set_model_path")

    def use_cpu(self):
        self.calls.append("use_cpu")

    def set_cpu_thread_num(self, thread_num):
        self.calls.append(f"set_cpu_thread_num {thread_num}")

    def use_paddle_infer_backend(self):
        self.calls.append("use_paddle_infer_backend")


class Runtime:
    def __init__(self, runtime_option):
        with open(os.environ["STAND_IN_LOG"], "w") as file:
            json.dump(runtime_option.calls, file)
        config = inference.Config(runtime_option.model_path, runtime_option.params_path)
        config.disable_mkldnn()
        self._predictor = inference.create_predictor(config)

    def num_inputs(self):
        return len(self._predictor.get_input_names())

    def get_input_info(self, index):
        return SimpleNamespace(name=self._predictor.get_input_names()[index])

    def infer(self, data):
        assert type(data) is dict and set(data) == set(self._predictor.get_input_names())
        for name, array in data.items():
            self._predictor.get_input_handle(name).copy_from_cpu(array)
        self._predictor.run()
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in self._predictor.get_output_names()]
"""


@pytest.fixture
def infer(run, exported):
    return lambda *more, **options: run("infer_generation.py", "--model_path", exported[0], *SHORT, *more, **options)


def package(folder, content: str) -> dict[str, str]:
    """An environment in which `import fastdeploy` finds a package with this content."""
    (folder / "fastdeploy").mkdir()
    (folder / "fastdeploy" / "__init__.py").write_text(content, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def test_nothing_installed(infer):
    result = infer("--backend", "fastdeploy", TEXT)
    assert result.code == 1
    assert result.err.startswith("error: backend fastdeploy is not installed")
    assert "--backend paddle" in result.err
    assert result.err.count("\n") == 1


def test_the_downloader_of_pypi(infer, tmp_path):
    result = infer("--backend", "fastdeploy", TEXT, environ=package(tmp_path, DOWNLOADER))
    assert result.code == 1
    assert result.err.startswith("error: the installed fastdeploy (0.1.0) has no RuntimeOption")
    assert result.err.count("\n") == 1


def test_contract_with_a_stand_in_for_fastdeploy_1(infer, tmp_path):
    log = {"STAND_IN_LOG": str(tmp_path / "calls.json")}
    options = ["--backend", "fastdeploy", "--cpu_threads", "2", "--num_beams", "3"]
    result = infer(*options, TEXT, environ=package(tmp_path, STAND_IN) | log)
    assert result.code == 0, result.err
    assert result.texts == infer("--num_beams", "3", TEXT).texts
    calls = json.loads((tmp_path / "calls.json").read_text())
    assert calls == ["set_model_path", "use_cpu", "set_cpu_thread_num 2", "use_paddle_infer_backend"]

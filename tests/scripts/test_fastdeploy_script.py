"""--backend fastdeploy: the real FastDeploy 1.0.7 in a Python that has it writes what ONNX Runtime writes with the same
export; without it, and with what it cannot run, one line."""

import os
import subprocess
import sys

import pytest
from commands import ROOT, SHORT, SURROUNDINGS, Result
from fastdeploy_python import fastdeploy_python
from tiny_chat import write_chat_model

TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"
OTHER = '__version__ = "0.1.0"\n\n\ndef download(url):\n    """All that PyPI\'s oldest package can do."""\n'
WAYS = {
    "batches": ["--batch_size", "3"],
    "drawn": ["--do_sample", "--temperature", "2", "--top_k", "20", "--top_p", "0.9", "--seed", "6"],
    "beams": ["--num_beams", "3", "--no_repeat_ngram_size", "3"],
    "stream": ["--stream"],
    "prompt lookup": ["--stream", "--prompt_lookup", "6"],
}
needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")


def written(run, model, directory, *flags):
    """An export of the model."""
    where = ["--model_name_or_path", model, "--output_path", directory / "glm", "--format", "onnx"]
    result = run("export_generation_model.py", *where, *flags)
    assert result.code == 0, result.err
    return directory


@pytest.fixture(scope="module")
def standard(run, model, tmp_path_factory):
    return written(run, model, tmp_path_factory.mktemp("standard"), "--opset", "17")


@pytest.fixture(scope="module")
def own(run, model, tmp_path_factory):
    """The usual form, with ONNX Runtime's own operators."""
    return written(run, model, tmp_path_factory.mktemp("own"))


def infer_of(run, directory):
    return lambda *more, **options: run("infer_generation.py", "--model_path", directory, *SHORT, *more, **options)


def with_fastdeploy(script: str, *arguments, stdin: str = "", cwd=ROOT) -> Result:
    """A script in the Python that has FastDeploy."""
    command = [fastdeploy_python(), ROOT / script, *map(str, arguments), "--backend", "fastdeploy"]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, cwd=cwd, env=os.environ | SURROUNDINGS, timeout=240
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
@needs_onnx_runtime
@pytest.mark.parametrize("way", WAYS)
def test_it_writes_what_onnx_runtime_writes(run, standard, sources, tmp_path, way):
    wanted = infer_of(run, standard)("--input_file", sources, *WAYS[way])
    assert wanted.code == 0, wanted.err
    where = ["--model_path", os.path.relpath(standard, tmp_path), *SHORT, "--input_file", sources]
    found = with_fastdeploy("infer_generation.py", *where, *WAYS[way], cwd=tmp_path)
    assert (found.code, found.out) == (0, wanted.out), found.err
    assert found.err.startswith("backend: fastdeploy on cpu (asked for)\n")
    assert len(wanted.out.splitlines()) > 8


@pytest.mark.slow
@needs_onnx_runtime
@pytest.mark.parametrize("kind", ["chatglm", "glm4-0414"])
def test_a_conversation(run, tmp_path, kind):
    """Weights in 8 bits, which lie elsewhere behind a link."""
    model = write_chat_model(kind, tmp_path / "model")
    written(run, model, tmp_path, "--opset", "17", "--weights", "int8")
    (tmp_path / "disk").mkdir()
    (tmp_path / "glm.onnx.data").rename(tmp_path / "disk" / "6f2c")
    (tmp_path / "glm.onnx.data").symlink_to("disk/6f2c")
    flags = ["--model_path", tmp_path, "--chat", "--tgt_length", "12"]
    asked = "你好\n云溪桥有多长\n"
    wanted = run("infer_generation.py", *flags, stdin=asked)
    assert wanted.code == 0, wanted.err
    found = with_fastdeploy("infer_generation.py", *flags, stdin=asked)
    assert (found.code, found.out) == (0, wanted.out), found.err


@pytest.mark.slow
def test_what_it_cannot_do_is_one_line(own, standard, tmp_path):
    for directory, more, code, line in (
        (own, [], 1, "backend fastdeploy knows standard operators alone, and "),
        (standard, ["--device", "npu"], 2, "backend fastdeploy runs on cpu or gpu, not on 'npu'"),
        (standard, ["--device", "gpu"], 1, "the installed fastdeploy 1.0.7 was built without GPU"),
    ):
        found = with_fastdeploy("infer_generation.py", "--model_path", directory, *SHORT, *more, TEXT)
        assert (found.code, found.out) == (code, ""), found.err
        assert found.err.startswith(f"error: {line}") and found.err.count("\n") == 1, found.err


def test_nothing_installed(run, standard):
    result = infer_of(run, standard)("--backend", "fastdeploy", TEXT)
    assert result.code == 1
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert result.err.startswith(f"error: backend fastdeploy is not installed for Python {version} (No module named")
    assert "pip install fastdeploy-python==1.0.7 with Python 3.8 to 3.10" in result.err
    assert result.err.count("\n") == 1


def test_another_package_of_that_name(run, standard, tmp_path):
    (tmp_path / "fastdeploy").mkdir()
    (tmp_path / "fastdeploy" / "__init__.py").write_text(OTHER, encoding="utf-8")
    result = infer_of(run, standard)("--backend", "fastdeploy", TEXT, environ={"PYTHONPATH": str(tmp_path)})
    assert result.code == 1
    assert result.err.startswith("error: the installed fastdeploy is 0.1.0, and this code runs 1.0.7: pip install")
    assert result.err.count("\n") == 1


def test_exports_of_another_form(run, own, exported):
    found = infer_of(run, own)("--backend", "fastdeploy", TEXT)
    assert found.code == 1 and found.err.count("\n") == 1
    assert found.err.startswith("error: backend fastdeploy knows standard operators alone, and ")
    assert "export with --format onnx --opset 17, or use --backend onnx_runtime" in found.err
    found = infer_of(run, exported[0])("--backend", "fastdeploy", TEXT)
    assert found.code == 1 and found.err.count("\n") == 1
    assert found.err.startswith("error: backend fastdeploy runs exports of --format onnx, and this one is paddle")

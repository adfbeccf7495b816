"""An ONNX export is served where neither Paddle nor PaddleNLP is installed: the page's commands."""

import re
import shlex
import subprocess
import sys

import pytest
from served_process import ROOT, Served
from test_serve_script import COMMANDS

LINES = [line for line in COMMANDS if "serve-env" in line]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="ONNX Runtime needs Python 3.11")
def test_an_export_is_served_without_paddle(run, tmp_path):
    result = run(
        "export_generation_model.py", "--model_name_or_path", "glm-4-9b-0414-tiny",
        "--output_path", tmp_path / "export" / "glm", "--format", "onnx",
    )  # fmt: skip
    assert result.code == 0, result.err
    environment = tmp_path / "serve-env"
    for line in LINES[:2]:
        words = shlex.split(line.replace("serve-env", str(environment)))
        words[0] = sys.executable if words[0] == "python" else words[0]
        subprocess.run([*words, *(["--quiet"] if "pip" in words[0] else [])], cwd=ROOT, check=True)
    python = environment / "bin/python"
    listed = subprocess.run([python, "-m", "pip", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout.lower()
    assert not re.search(r"^(paddle|torch|transformers|datasets)", listed, re.MULTILINE) and "onnxruntime" in listed
    words = [word.replace("./checkpoints/serve", str(tmp_path / "export")) for word in shlex.split(LINES[2])[2:]]
    with Served(*words, python=python, environ={"PYTHONPATH": ""}) as served:
        body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
        status, raw = served.ask("/v1/chat/completions", body)
        assert status == 200, raw
        assert served.end()[0] == 0

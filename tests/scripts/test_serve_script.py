"""serve_generation.py from the command line: every command of docs/serving.md, signals, and what it refuses."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served_process import ROOT, SECONDS, Served, engines_of

import serve_generation
from tests.in_process import run_main

PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")
COMMANDS = [
    " ".join(line.split())
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.fixture(scope="module")
def export(run, tmp_path_factory) -> Path:
    """The page's first command, elsewhere."""
    folder = tmp_path_factory.mktemp("serve")
    script, *arguments = shlex.split(next(line for line in COMMANDS if "export_generation_model.py" in line))[1:]
    result = run(script, *[word.replace("./checkpoints/serve", str(folder)) for word in arguments])
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="module")
def served(export):
    """The page's second command."""
    words = shlex.split(next(line for line in COMMANDS if line.startswith("python serve_generation.py")))[2:]
    with Served(*[word.replace("./checkpoints/serve", str(export)) for word in words]) as found:
        yield found


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("curl ")])
def test_the_curl_commands(served, line):
    command = shlex.split(line.replace("http://127.0.0.1:8000", served.url))
    found = subprocess.run([*command, "--silent", "--fail"], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "stream" in line:
        assert found.endswith("data: [DONE]\n\n") and '"object":"text_completion"' in found
    else:
        assert json.loads(found)["object"] in ("list", "chat.completion")


def test_the_python_block(served):
    pytest.importorskip("openai", reason="requirements-test.txt is not installed")
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(block.replace("http://127.0.0.1:8000", served.url), {})


def test_it_says_what_it_serves(served):
    assert any(line.startswith("backend: onnx_runtime on cpu") for line in served.lines)
    assert any(re.fullmatch(r"8 texts at once, each of 32,769 tokens .* cache \S+ \S+", line) for line in served.lines)


def test_whole_and_streamed_are_what_the_export_writes(served, export, run):
    """Greedy, and so the same as infer_generation.py's."""
    text = "你好，世界"
    where = ["--model_path", export, "--tgt_length", "12", "--no-do_sample"]
    wanted = run("infer_generation.py", *where, text).texts[0]
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 12, "temperature": 0}
    status, raw = served.ask("/v1/chat/completions", body)
    assert status == 200 and json.loads(raw)["choices"][0]["message"]["content"].strip() == wanted
    stream = served.ask("/v1/chat/completions", body | {"stream": True})[1].split("\n\n")[:-2]
    chunks = [json.loads(event.removeprefix("data: ")) for event in stream]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks).strip() == wanted


def test_with_keys_and_names(export, tmp_path):
    """The page's last command: keys of a file, of the environment; aliases."""
    (tmp_path / "keys.txt").write_text("one\ntwo\n")
    names = ["--served_model_name", "glm-4", "gpt-4", "--max_model_len", "64", "--max_num_seqs", "2"]
    keys = ["--api_key_file", tmp_path / "keys.txt"]
    with Served("--model_path", export, *names, *keys, environ={"GLM_API_KEY": "three"}) as served:
        assert served.ask("/v1/models")[0] == 401
        for key in ("one", "two", "three"):
            assert served.ask("/v1/models", key=key)[0] == 200
        body = {"model": "gpt-4", "prompt": [5, 6], "max_tokens": 2, "ignore_eos": True}
        assert json.loads(served.ask("/v1/completions", body, "one")[1])["model"] == "gpt-4"
        status, raw = served.ask("/v1/completions", body | {"max_tokens": 63}, "one")
        assert status == 400 and "the model holds 64 together" in raw
        assert "2 texts at once, each of 64 tokens" in "\n".join(served.lines)


def test_sigterm_lets_texts_be_finished(export):
    with Served("--model_path", export) as served:
        code, said = served.end()
    assert code == 0 and "error" not in said and "Traceback" not in said


def test_sigterm_while_it_opens_leaves_no_engine(export):
    """The engine says its errors into the same pipe, which ends with the last of them."""
    command = [sys.executable, "serve_generation.py", "--model_path", export, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + SECONDS
        while not engines_of(process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.terminate()
        said = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 0 and "error" not in said and "Traceback" not in said


def test_a_killed_engine_ends_the_server(export):
    with Served("--model_path", export) as served:
        child = served.engine
        os.kill(child, signal.SIGKILL)
        code, said = served.ended()
        assert code == 1
        assert said.splitlines()[-1] == "error: the engine has ended: its process was killed"


def test_the_engine_ends_with_its_server(export):
    with Served("--model_path", export) as served:
        child = served.engine
    end = time.monotonic() + SECONDS
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ([], 2, "the following arguments are required: --model_path/--model_dir"),
        (["--model_path", "/nowhere"], 1, "/nowhere is not a directory"),
        (["--model_path", ".", "--max_num_seqs", "0"], 2, "--max_num_seqs is 0, and must be at least 1"),
        (["--model_path", ".", "--prompt_lookup", "-1"], 2, "--prompt_lookup is -1, and must be at least 0"),
        (["--model_path", ".", "--max_queue", "-1"], 2, "--max_queue is -1, and must be at least 0"),
        (["--model_path", ".", "--api_key", ""], 2, "--api_key is empty"),
        (["--model_path", ".", "--api_key_file", "/nowhere"], 1, "No such file"),
        (["--model_path", ".", "--port", "x"], 2, "argument --port: invalid int value"),
        (["--model_path", ".", "--backend", "tensorrt"], 2, "invalid choice: 'tensorrt'"),
    ],
)
def test_what_is_refused(arguments, code, line, monkeypatch, capsys):
    found, _, err = run_main(serve_generation.main, monkeypatch, capsys, *arguments)
    assert found == code and err.startswith("error: ") and line in err and err.count("\n") == 1


def test_a_port_that_is_taken(export, served, monkeypatch, capsys):
    port = served.url.rpartition(":")[2]
    code, _, err = run_main(serve_generation.main, monkeypatch, capsys, "--model_path", str(export), "--port", port)
    assert (code, err) == (
        1,
        f"error: cannot listen on 127.0.0.1 port {port} (Address already in use): choose another --port\n",
    )


def test_more_tokens_than_the_model_has(export):
    with pytest.raises(AssertionError, match=r"error: --max_model_len is 40,000, and the model ends at 32,769 tokens"):
        Served("--model_path", export, "--max_model_len", "40000")

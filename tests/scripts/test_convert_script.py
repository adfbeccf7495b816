"""convert_checkpoint.py as a user runs it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, SURROUNDINGS
from safetensors.numpy import load_file, save_file

import convert_checkpoint
from glm.checkpoint.journal import STAGING
from glm.files.atomic import lock_directory

FIXTURE = ROOT / "tests" / "parity" / "fixtures" / "glm4-g2-bias-rope1"
SCRIPT = "convert_checkpoint.py"


def paths(source: Path, target: Path) -> list:
    return ["--source", source, "--target", target]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_both_ways(run, tmp_path):
    """A bar, then a table; the second run gives back what the first one got."""
    there = run(SCRIPT, *paths(FIXTURE, tmp_path / "ranks"), "--format", "paddle", "--tensor_parallel_degree", "2")
    assert there.code == 0, there.err
    parameters = sum(array.size for array in load_file(FIXTURE / "model.safetensors").values())
    assert "convert: 100%" in there.err
    for word in ("weight files", "tensors", "parameters", "seconds", "speed", "peak memory", f"{parameters:,}"):
        assert word in there.out
    back = run(SCRIPT, *paths(tmp_path / "ranks", tmp_path / "back"), "--format", "hf")
    assert back.code == 0, back.err
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (FIXTURE / name).read_bytes()


def test_help_shows_examples_and_formats(run):
    result = run(SCRIPT, "--help")
    assert result.code == 0
    for word in ("python convert_checkpoint.py --source", "GlmForCausalLM", "remote", "model_state.tpNN", "5GB"):
        assert word in result.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "onnx"], 2, "invalid choice: 'onnx'"),
        (["--format", "hf", "--max_shard_size", "huge"], 2, "'huge' is not a size: write something like 5GB"),
        (["--format", "hf", "--tensor_paralel_degree", "2"], 2, "did you mean --tensor_parallel_degree?"),
        (["--format", "paddle", "--tensor_parallel_degree", "3"], 1, "degree 3 does not divide num_attention_heads 4"),
    ],
)
def test_errors_are_one_line(run, tmp_path, arguments, code, message):
    result = run(SCRIPT, *paths(FIXTURE, tmp_path / "target"), *arguments)
    assert (result.code, result.out) == (code, "")
    assert result.err.count("\n") == 1
    assert result.error.startswith("error: ")
    assert message in result.error
    assert not (tmp_path / "target").exists()


@pytest.fixture
def larger(tmp_path) -> Path:
    """A GLM-4-0414 of 60 MB, which takes a moment to convert."""
    config = json.loads((FIXTURE / "config.json").read_text()) | {"vocab_size": 1024, "hidden_size": 512}
    config |= {"head_dim": 128, "intermediate_size": 1024, "num_hidden_layers": 6}
    layer = {"self_attn.q_proj": (512, 512), "self_attn.o_proj": (512, 512), "mlp.down_proj": (512, 1024)}
    layer |= {"self_attn.k_proj": (256, 512), "self_attn.v_proj": (256, 512), "mlp.gate_up_proj": (2048, 512)}
    norms = ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm")
    layer |= dict.fromkeys(norms, (512,))
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(6) for name, shape in layer.items()}
    biases = {f"self_attn.{name}_proj": size for name, size in (("q", 512), ("k", 256), ("v", 256))}
    shapes |= {f"model.layers.{i}.{name}.bias": (size,) for i in range(6) for name, size in biases.items()}
    shapes |= {"model.embed_tokens.weight": (1024, 512), "lm_head.weight": (1024, 512), "model.norm.weight": (512,)}
    draw = np.random.default_rng(0)
    directory = tmp_path / "larger"
    directory.mkdir()
    save_file({name: draw.random(shape, "float32") for name, shape in shapes.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_a_killed_run_continues(run, larger, tmp_path):
    words = [*paths(larger, tmp_path / "target"), "--format", "paddle", "--max_shard_size", "1MB"]
    command = [sys.executable, str(ROOT / SCRIPT), *map(str, words)]
    staging = tmp_path / "target" / STAGING
    with subprocess.Popen(command, env=os.environ | SURROUNDINGS, stderr=subprocess.DEVNULL) as process:
        while len(list(staging.glob("*.pdparams"))) < 3 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert list((tmp_path / "target").iterdir()) == [staging]
    os.close(lock_directory(staging))  # a killed process holds nothing
    resumed = run(SCRIPT, *words)
    assert resumed.code == 0, resumed.err
    first = run(SCRIPT, *paths(larger, tmp_path / "whole"), *words[4:])
    assert contents(tmp_path / "target") == contents(tmp_path / "whole")
    written = [line for line in (resumed.out + first.out).splitlines() if "written by this run" in line]
    assert written[0] != written[1]


def test_documented_commands_are_taken(monkeypatch):
    """Those of docs/conversion.md and of --help."""
    texts = convert_checkpoint.DESCRIPTION + (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
    commands = re.findall(r"^ *python (convert_checkpoint\.py --.*)$", texts, flags=re.MULTILINE)
    assert len(commands) == 15
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        assert convert_checkpoint.parse().max_shard_size in (5 * 10**9, 2 * 10**9)

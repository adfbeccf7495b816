"""The command `python -m glm.memory`."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from glm import GLMConfig
from glm.memory import GIB, Run, estimate
from glm.memory.__main__ import main
from tests.in_process import run_main
from tests.memory.measurement import config_of

ROOT = Path(__file__).resolve().parents[2]
LARGE, TEN = "glm-large-chinese", "glm-10b-chinese"


command = partial(run_main, main)


def test_the_command_prints_the_parts():
    arguments = ["--preset", f"THUDM/{LARGE}", "--train", "full", "--recompute", "--sharding", "stage1"]
    arguments += ["--sharding_parallel_degree", "2"]
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # Paddle warns of it
    result = subprocess.run(
        [sys.executable, "-m", "glm.memory", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    run = Run(train="full", recompute=True, sharding="stage1", sharding_degree=2)
    memory = estimate(GLMConfig.preset(LARGE), run)
    assert (result.returncode, result.stderr) == (0, "")
    for size in (memory.weights, memory.optimizer, memory.training, memory.generation):
        assert f"{size / GIB:.2f} GiB" in result.stdout
    assert "gradients" in result.stdout
    assert result.stdout.startswith(f"THUDM/{LARGE} in float32, tensor-parallel degree 1, a rank\n")


def test_the_command_says_which_degrees_fit(monkeypatch, capsys):
    arguments = ["--preset", TEN, "--dtype", "bfloat16", "--device_memory", "16"]
    code, out, _ = command(monkeypatch, capsys, *arguments)
    rows = [line.replace("│", " ").split() for line in out.splitlines() if line.rstrip(" │").endswith(("yes", "no"))]
    assert code == 0
    assert "gradients" not in out
    assert [(row[0], row[-1]) for row in rows] == [("1", "no"), ("2", "yes"), ("4", "yes"), ("8", "yes")]


def test_the_command_reads_a_config(monkeypatch, capsys, tmp_path):
    config_of(num_attention_heads=2, hidden_size=96, dtype="float32").save_pretrained(tmp_path)
    arguments = ["--model_name_or_path", str(tmp_path), "--device_memory", "0.001"]
    code, out, _ = command(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "no: the model cannot be sharded so" in out  # two heads, eight ranks
    assert " yes " not in out


def test_the_command_reads_scaled_positions(monkeypatch, capsys, tmp_path, caplog):
    """They cost nothing; a field that nobody knows is named once, however many degrees are asked for."""
    plain, yarn = tmp_path / "plain", tmp_path / "yarn"
    GLMConfig.preset("glm-4-9b-0414-tiny").save_pretrained(plain)
    GLMConfig.preset("glm-4-9b-0414-tiny", rope_scaling={"type": "yarn", "factor": 4.0}).save_pretrained(yarn)
    fields = json.loads((yarn / "config.json").read_text("utf-8")) | {"made_by": "hand"}
    (yarn / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    run = ["--src_length", "40000", "--device_memory", "1"]
    printed = [command(monkeypatch, capsys, "--model_name_or_path", str(path), *run) for path in (plain, yarn)]
    assert [code for code, _, _ in printed] == [0, 0]
    peaks = [re.findall(r"[\d.]+ [kMG]i?B", out) for _, out, _ in printed]
    assert peaks[0] == peaks[1] and len(peaks[0]) > 4
    assert caplog.text.count("made_by") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --preset or --model_name_or_path"),
        (["--preset", "glm-9b"], f"preset 'glm-9b' is not one of glm-tiny-chinese, {LARGE}, {TEN}, chatglm-6b, "),
        (["--preset", TEN, "--batch_size", "0"], "batch_size is 0, and must be at least 1"),
        (["--preset", TEN, "--max_length", "-5"], "max_length is -5, and must be at least 1, or 0 without packing"),
        (["--preset", TEN, "--max_length", "2048"], "max_length is 2048 and train none: only training packs rows"),
        (["--preset", TEN, "--tensor_parallel_degree", "0"], "tensor_parallel_degree is 0, and must be at least 1"),
        (["--preset", TEN, "--device_memory", "-1"], "device_memory is -1.0 GiB, and must be above 0"),
        (["--preset", TEN, "--train", "half"], "invalid choice: 'half'"),
    ],
)
def test_wrong_arguments_are_one_line(monkeypatch, capsys, arguments, message):
    code, out, err = command(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_degree_that_does_not_divide_is_one_line(monkeypatch, capsys):
    code, _, err = command(monkeypatch, capsys, "--preset", TEN, "--tensor_parallel_degree", "3")
    assert code == 1
    assert "3" in err
    assert "num_attention_heads 64" in err
    assert err.count("\n") == 1


def test_the_command_knows_sequence_parallelism(monkeypatch, capsys):
    """Its row for one device is of a model without; a run on one device is refused."""
    flags = ["--preset", TEN, "--train", "full", "--sequence_parallel"]
    run = [*flags, "--tensor_parallel_degree", "4", "--device_memory", "64"]
    _, divided, _ = command(monkeypatch, capsys, *run)
    _, whole, _ = command(monkeypatch, capsys, *(word for word in run if word != "--sequence_parallel"))
    needs = [
        {degree: float(size.replace(",", "")) for degree, size in re.findall(r"│ ([1248]) +│ ([\d,.]+) GiB", text)}
        for text in (divided, whole)
    ]
    assert list(needs[0]) == ["1", "2", "4", "8"]
    assert needs[0].pop("1") == needs[1].pop("1")
    assert all(size < needs[1][degree] for degree, size in needs[0].items())
    code, out, err = command(monkeypatch, capsys, *flags)
    assert (code, out) == (1, "")
    assert "sequence_parallel is True and tensor_parallel_degree 1" in err and err.count("\n") == 1


def test_the_command_knows_expert_parallelism(monkeypatch, capsys):
    """Ranks divide experts and nothing else: GLM-4.7-Flash has 28.2 billion weights in them, of 29.9."""
    run = ["--preset", "glm-4.7-flash", "--train", "lora", "--dtype", "bfloat16", "--fp16_opt_level", "O2"]
    _, out, _ = command(monkeypatch, capsys, *run, "--expert_parallel_degree", "8", "--device_memory", "40")
    assert "expert-parallel degree 8" in out
    weights = float(re.search(r"│ weights +│ +([\d.]+) GiB", out)[1])
    experts = 46 * 64 * 3 * 2048 * 1536 * 2 / 2**30
    _, whole, _ = command(monkeypatch, capsys, *run)
    assert float(re.search(r"│ weights +│ +([\d.]+) GiB", whole)[1]) - weights == pytest.approx(
        experts * 7 / 8, abs=0.02
    )
    fits = re.findall(r"│ ([1248]) +│ [\d,.]+ GiB +│ (yes|no)", out)
    assert [answer for _, answer in fits] == ["no", "no", "no", "yes"]
    code, _, err = command(monkeypatch, capsys, "--preset", "glm-4.7-flash", "--expert_parallel_degree", "2")
    assert code == 2 and "expert_parallel_degree is 2 and train none" in err and err.count("\n") == 1


def test_the_command_counts_adapters_of_experts(monkeypatch, capsys):
    """GLM-4.7-Flash, r 8: of 46 layers three matrices an expert and the MLPs', of which a rank of two has half."""
    run = ["--preset", "glm-4.7-flash", "--train", "lora", "--dtype", "bfloat16", "--fp16_opt_level", "O2"]
    sizes = {}
    for targets in ("all", "experts"):
        for degree in ("1", "2"):
            flags = [*run, "--lora_targets", targets, "--expert_parallel_degree", degree]
            _, out, _ = command(monkeypatch, capsys, *flags)
            number, unit = re.search(r"│ gradients +│ +([\d.]+) (\w+)", out).groups()
            sizes[targets, degree] = float(number) * {"GiB": 1024, "MiB": 1}[unit]
    experts = 46 * 64 * 3 * 8 * (2048 + 1536) * 2 / 2**20
    for degree in ("1", "2"):
        assert sizes["experts", degree] - sizes["all", degree] == pytest.approx(experts / int(degree), abs=6)
    code, _, err = command(monkeypatch, capsys, "--preset", TEN, "--train", "lora", "--lora_targets", "experts")
    assert code == 2 and "lora_targets is experts, and this model has none: choose all" in err and err.count("\n") == 1


def test_help_teaches(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "--help")
    assert code == 0
    assert out.startswith("usage: python -m glm.memory [-h]")
    assert "python -m glm.memory --preset glm-10b-chinese --tensor_parallel_degree 4" in out

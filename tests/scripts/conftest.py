"""One small model, its adapter and its export, written through the scripts, for all tests of the scripts."""

import json
import os
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from commands import GREEDY, SAMPLE, SHORT, TINY, Result, WarmRunner, run_cold
from safetensors.numpy import load_file, save_file

from tests.npu_simulator.launching import environment

FEW_STEPS = ["--do_train", "--max_steps", "120", "--per_device_train_batch_size", "16", "--learning_rate", "3e-3"]


@pytest.fixture(scope="session")
def run():
    """Runs a script with arguments in a process that need not import Paddle first; no network behind it."""
    runner = WarmRunner()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def run_npu():
    """Runs a script in a process that sees simulated NPUs, or with `run_npu.ranks` in several that share a model."""
    with patch.dict(os.environ, environment(NPU_SIMULATOR_DEVICES="4"), clear=True):
        runner = WarmRunner()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def two_rows(tmp_path_factory) -> Path:
    """Rows of both formats, eight to train on and two to evaluate on: the seed asks for 5 beams and 160 tokens."""
    folder = tmp_path_factory.mktemp("two")
    row = {"context": "云溪桥建于1920年。", "answer": "1920年", "question": "云溪桥建于哪一年"}
    row |= {"instruction": "重复下面的词。", "input": "德菊清", "output": "德菊清"}
    for name, count in (("train", 8), ("dev", 2)):
        (folder / f"{name}.json").write_text((json.dumps(row, ensure_ascii=False) + "\n") * count, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory) -> Path:
    """A folder with 40 training rows and 8 evaluation rows."""
    folder = tmp_path_factory.mktemp("rows")
    for name, count in (("train", 40), ("dev", 8)):
        lines = (SAMPLE / f"{name}.json").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.json").write_text("".join(lines[:count]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sources(rows, tmp_path_factory) -> Path:
    """The sources of the evaluation rows, one text per line."""
    path = tmp_path_factory.mktemp("sources") / "sources.txt"
    dev = map(json.loads, (rows / "dev.json").read_text(encoding="utf-8").splitlines())
    path.write_text("".join(f"答案：{row['answer']}，上下文：{row['context']}\n" for row in dev), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(rows, tmp_path_factory) -> tuple[Path, Result]:
    """Directory and output of a run that was started as a user starts it: half-trained, so that it ends its texts."""
    directory = tmp_path_factory.mktemp("model") / "qg"
    data = ["--data_path", SAMPLE, "--save_steps", "60", "--save_total_limit", "1", "--logging_steps", "40"]
    model = ["--model_name_or_path", TINY, "--output_dir", directory]
    result = run_cold("finetune_generation.py", *model, *data, *FEW_STEPS, *SHORT)
    assert result.code == 0, result.err
    return directory, result


@pytest.fixture(scope="session")
def model(trained) -> Path:
    """Directory of a trained model."""
    return trained[0]


@pytest.fixture(scope="session")
def adapter(run, model, rows, tmp_path_factory) -> Path:
    """Directory of a LoRA adapter for `model`, trained until it shows, with its greedy evaluation."""
    directory = tmp_path_factory.mktemp("adapter") / "lora"
    lora = ["--lora", "True", "--r", "8", "--learning_rate", "2e-2", "--do_train", "--max_steps", "10", "--do_eval"]
    where = ["--model_name_or_path", model, "--data_path", rows, "--output_dir", directory, "--save_peft", "True"]
    result = run("finetune_generation.py", *where, *lora, *SHORT, *GREEDY)
    assert result.code == 0, result.err
    return directory


@pytest.fixture(scope="session")
def dora(adapter, tmp_path_factory) -> Path:
    """The trained adapter in PEFT's files, as DoRA with magnitudes of its own."""
    directory, draw = tmp_path_factory.mktemp("dora") / "dora", np.random.default_rng(0)
    shutil.copytree(adapter / "peft", directory)
    config, weights = directory / "adapter_config.json", directory / "adapter_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}), encoding="utf-8")
    arrays = load_file(weights)
    for name in [name for name in arrays if ".lora_B." in name]:
        magnitude = draw.uniform(0.2, 2, len(arrays[name])).astype("float32")
        arrays[name.replace(".lora_B.weight", ".lora_magnitude_vector")] = magnitude
    save_file(arrays, weights)
    return directory


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory) -> tuple[Path, Result]:
    """Directory of the model's graph, `glm`, and what the script printed that wrote it."""
    directory = tmp_path_factory.mktemp("export") / "infer"
    result = run_cold("export_generation_model.py", "--model_name_or_path", model, "--output_path", directory / "glm")
    assert result.code == 0, result.err
    return directory, result

"""Every file of configs/ runs on the tiny preset of its model: the file, and a few flags behind it."""

from pathlib import Path

import pytest
import yaml
from commands import ROOT, SHORT

from glm.config.presets import PRESETS, preset_name
from tests.indexed_text import random_documents, write_indexed
from tests.npu_simulator.launching import needs_compiler

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FEW = ["--max_steps", "2", "--warmup_steps", "1", "--save_steps", "100", "--fp16", "False", "--learning_rate", "1e-3"]
# Of eight devices there are two here: what one of two ranks gets of a plan for eight.
TWO_RANKS = ["--tensor_parallel_degree", "2", "--sharding_parallel_degree", "1", "--gradient_accumulation_steps", "2"]
# And one device does without what several have.
ALONE = ["--tensor_parallel_degree", "1", "--sequence_parallel", "False"]
ALONE += ["--sharding_parallel_degree", "1", "--gradient_accumulation_steps", "1"]


def tiered(configs: list[Path]) -> list:
    """The shorter files of pretraining are the longest's but for numbers: they are slow, the longest runs always."""
    slow = {"pretrain_glm4_9b_4k", "pretrain_glm4_9b_8k"}
    return [pytest.param(c, id=c.stem, marks=[pytest.mark.slow] * (c.stem in slow)) for c in configs]


def content(config: Path) -> dict:
    return yaml.safe_load(config.read_text(encoding="utf-8"))


def tiny(config: Path) -> str:
    """The preset that is the file's model but for its sizes."""
    name = f"{preset_name(content(config)['model_name_or_path'])}-tiny"
    assert name in PRESETS, config.name
    return name


@pytest.fixture
def data(config, tmp_path) -> Path:
    """A few rows of the bundled sample of the file's task; of pretraining an indexed data set."""
    if config.name.startswith("pretrain"):
        return write_indexed(tmp_path / "text", random_documents(30))
    folder = tmp_path / "rows"
    folder.mkdir()
    for split in ("train", "dev"):
        lines = (
            (ROOT / "data" / content(config)["task_name"] / f"{split}.json").read_text(encoding="utf-8").splitlines()
        )
        (folder / f"{split}.json").write_text("\n".join(lines[:6]) + "\n", encoding="utf-8")
    return folder


def training(config: Path, data: Path, output: Path) -> list:
    """The script and its arguments: the file, and what makes it small."""
    flags, chosen = ["--model_name_or_path", tiny(config), "--output_dir", output], content(config)
    few = FEW if chosen.get("do_train") else []
    if config.name.startswith("pretrain"):
        short = ["--max_length", "64", "--peak_tflops", "1"]
        return [
            "pretrain_generation.py",
            config,
            *flags,
            *few,
            *short,
            "--min_learning_rate",
            "1e-4",
            "--input_dir",
            data,
        ]
    rows = ["--data_path", data, "--skip_bad_rows", "True", *SHORT]
    rows += ["--max_length", "128"] if chosen.get("packing") else []
    return ["finetune_instruction_generation.py", config, *flags, *rows, *few]


@pytest.mark.parametrize("config", tiered([c for c in CONFIGS if "predict" not in c.name]))
def test_training_and_evaluation(run, config, data, tmp_path):
    """On one device: what a plan for several says of them is left out."""
    output = tmp_path / "out"
    result = run(*training(config, data, output), *ALONE, "--sharding", "")
    assert result.code == 0, result.err
    chosen = content(config)
    written = {path.name for path in output.iterdir()}
    assert ("loss_history.jsonl" in written) == bool(chosen.get("do_train"))
    assert ("eval_results.json" in written) == bool(chosen.get("do_eval"))
    if chosen.get("do_train"):
        assert ("lora_model_state.pdparams" if chosen.get("lora") else "model.safetensors") in written


@needs_compiler
@pytest.mark.parametrize("config", tiered([c for c in CONFIGS if "tensor_parallel" in c.read_text()]))
def test_on_two_devices(run_npu, config, data, tmp_path):
    """The same with two ranks that share the model."""
    script, *arguments = training(config, data, tmp_path / "out")
    for result in run_npu.ranks(2, script, *arguments, *TWO_RANKS, "--sharding", ""):
        assert result.code == 0, result.err
    assert (tmp_path / "out" / "loss_history.jsonl").is_file()


@pytest.mark.parametrize("config", [c for c in CONFIGS if "predict" in c.name], ids=lambda c: c.stem)
def test_prediction(run, config, tmp_path):
    flags = ["--model_name_or_path", tiny(config), "--tgt_length", "6"]
    texts = [] if content(config).get("chat") else ["你好", "请介绍一下北京"]
    result = run("predict_generation.py", config, *flags, *texts, stdin="你好\n今天\n", cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.err.count("tokens/s") == (1 if texts else 2)

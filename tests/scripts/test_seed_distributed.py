"""The seed's commands on simulated NPUs: the distributed ones through Paddle's launcher, the others on one device."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from seed_commands import ON_NPU, ON_NPUS, RUN_FILES, Seed

from glm.checkpoint import load_state
from glm.config.glm_config import GLMConfig
from tests.npu_simulator.launching import needs_compiler

pytestmark = needs_compiler
SHARDS = ["model_state.tp00.pdparams", "model_state.tp01.pdparams"]
STEPS = 3
# fp16 has 11 bits, and 640 positions are averaged; a step changes the loss by a hundred times as much.
HALF = 1e-3


@pytest.fixture(scope="module")
def trained(run, two_rows, tmp_path_factory):
    """The DuReaderQG run on two devices, with shards for the merge, and how the launch ended."""
    seed = Seed(run, tmp_path_factory.mktemp("launched"), ON_NPUS)
    result = seed.run("tensor parallel", "--max_steps", STEPS, "--data_path", two_rows, "--weight_format", "pdparams")
    return seed, result


@pytest.fixture(scope="module")
def on_cpu(run, two_rows, tmp_path_factory) -> Seed:
    """The same run in one process, in float32."""
    seed = Seed(run, tmp_path_factory.mktemp("cpu"))
    seed.run("tensor parallel", "--max_steps", STEPS, "--data_path", two_rows, "--num_beams", 1, "--do_eval", False)
    return seed


def losses(seed: Seed) -> list[float]:
    return [row["loss"] for row in seed.lines("loss_history.jsonl")]


def assert_close(found: list[float], wanted: list[float]) -> None:
    assert len(found) == len(wanted) == STEPS
    assert np.abs(np.subtract(found, wanted)).max() < HALF
    assert wanted[0] - wanted[-1] > 100 * HALF


def assert_only_rank_0_speaks(result) -> None:
    """What rank 0 says comes to the terminal, and nothing of Paddle's own log."""
    assert result.logs[0] in result.out
    assert result.logs[1] == ""
    assert "[    INFO]" not in result.logs[0] and "FLAGS" not in result.logs[0]


def test_fine_tuning_on_two_devices(trained, on_cpu):
    seed, result = trained
    assert seed.tree() >= {*RUN_FILES, *SHARDS}
    assert not seed.tree() & {"model.safetensors", "checkpoint-3"}
    assert_close(losses(seed), losses(on_cpu))
    assert seed.results()["eval_loss"] < losses(seed)[-1]
    assert all(len(row["prediction"]) >= 55 for row in seed.lines("eval_predictions.jsonl"))  # --min_tgt_length 55
    assert_only_rank_0_speaks(result)


@pytest.mark.slow
def test_belle_on_two_devices(run, two_rows, tmp_path):
    seed = Seed(run, tmp_path, ON_NPUS)
    result = seed.run("belle", "--max_steps", 2, "--data_path", two_rows)
    assert seed.tree() >= {*RUN_FILES, "model.safetensors.index.json", "model-00002-of-00002.safetensors"}
    rows = seed.lines("eval_predictions.jsonl")
    assert [row["source"] for row in rows] == ["Human: 重复下面的词。德菊清\n Assistant: "] * 2
    assert all(row["prediction"] for row in rows)
    assert_only_rank_0_speaks(result)


def test_merging_on_two_devices(run, trained, tmp_path):
    """The launched run's shards as checkpoint-100: the texts of the merged model in one process, and its weights."""
    seed, source = Seed(run, tmp_path, ON_NPUS), trained[0]
    shards, merged = seed.model / "checkpoint-100", seed.directory / "checkpoints" / "glm-merged"
    seed.model.mkdir(parents=True)
    source.model.rename(shards)
    result = seed.run("merge")
    weights = load_state(merged, GLMConfig.from_pretrained(str(merged)))
    wanted = load_state(shards, GLMConfig.from_pretrained(str(shards)))
    assert weights.keys() == wanted.keys()
    assert all(np.array_equal(weights[name], array) for name, array in wanted.items())
    assert len(result.texts) == 2 and all(result.texts)
    assert run("predict_generation.py", "--model_name_or_path", merged).texts == result.texts
    assert_only_rank_0_speaks(result)


def test_full_fine_tuning_on_one_device(run_npu, two_rows, on_cpu, tmp_path):
    """As written, in half precision throughout."""
    seed = Seed(run_npu, tmp_path, ON_NPU)
    seed.run("full", "--max_steps", STEPS, "--data_path", two_rows)
    assert_close(losses(seed), losses(on_cpu))
    assert {array.dtype.name for array in load_file(seed.model / "model.safetensors").values()} == {"float16"}
    assert len(run_npu("predict_generation.py", "--model_name_or_path", seed.model).texts) == 2


def test_lora_fine_tuning_on_one_device(run_npu, two_rows, tmp_path):
    seed = Seed(run_npu, tmp_path, ON_NPU)
    seed.run("lora", "--max_steps", STEPS, "--data_path", two_rows, "--learning_rate", "2e-2")
    assert seed.tree() >= {*RUN_FILES, "lora_config.json", "lora_model_state.pdparams"}
    assert losses(seed)[-1] < losses(seed)[0] - 100 * HALF

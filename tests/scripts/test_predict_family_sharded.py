"""Chat models on tensor-parallel ranks write what one process writes, also on more ranks than key/value heads.

The ranks are forked with the launcher's variables (warm.py); tests/scripts/test_predict_sharded.py has the launcher.
"""

from pathlib import Path

import numpy as np
import pytest
from commands import Result
from family_models import write_family_model

from glm import GLMConfig, GLMForCausalLM
from glm.checkpoint import load_state
from glm.checkpoint.write import write_pdparams
from glm.model.lora import PADDLE_WEIGHTS, add_lora
from glm.pickles.unpickle import load_pdparams
from tests.npu_simulator.launching import needs_compiler

pytestmark = needs_compiler
PROMPTS = [
    "清嘉桥建于哪一年？",
    "请介绍一下北京",
    "瑞丰塔高72米。",
    "小鹿",
    "今天我们说说瑞丰塔。建于1691年。",
]
LENGTHS = ["--src_length", "96", "--tgt_length", "16"]
BATCHES = ["--predict_data", "prompts.txt", "--predict_batch_size", "4"]
RESULTS = "text_generation_result.txt"
MORE_RANKS = 4  # than the two key/value heads of the models
ODD_VOCABULARY = 770  # for four ranks


@pytest.fixture(scope="module", params=["glm4-0414", "glm4-remote"])
def family_model(request, tmp_path_factory) -> Path:
    return write_family_model(tmp_path_factory.mktemp("family") / request.param, request.param)


@pytest.fixture(scope="module")
def glm4_0414(tmp_path_factory) -> Path:
    return write_family_model(tmp_path_factory.mktemp("family") / "0414", "glm4-0414", vocab_size=ODD_VOCABULARY)


@pytest.fixture(scope="module")
def family_adapter(glm4_0414, tmp_path_factory) -> Path:
    """Random matrices on every linear layer, those of keys and values and the head too."""
    directory = tmp_path_factory.mktemp("family") / "adapter"
    lora = add_lora(GLMForCausalLM.from_pretrained(glm4_0414), r=4, targets="all")
    scatter_adapter(lora)
    lora.save_pretrained(directory)
    path, draw = directory / PADDLE_WEIGHTS, np.random.default_rng(4)
    shapes = {"lm_head.lora_A": (32, 4), "lm_head.lora_B": (4, ODD_VOCABULARY)}
    head = {name: draw.standard_normal(shape, "float32") * 0.2 for name, shape in shapes.items()}
    write_pdparams(path, dict(load_pdparams(path)) | head)
    return directory


def scatter_adapter(lora) -> None:
    draw = np.random.default_rng(3)
    for name, parameter in lora.named_parameters():
        if ".lora_" in name:
            parameter.set_value(draw.standard_normal(parameter.shape).astype("float32") * 0.2)


@pytest.fixture
def predicted(run, run_npu, tmp_path):
    """What one process writes for the prompts, and what ranks do, each in a folder of its own."""

    def predict(ranks: int, *words, of_ranks=()) -> tuple[Result, list[Result]]:
        for side in ("one", "many"):
            (tmp_path / side).mkdir()
            (tmp_path / side / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        words = ["predict_generation.py", *words, *LENGTHS]
        one = run(*words, cwd=tmp_path / "one")
        many = run_npu.ranks(ranks, *words, *of_ranks, cwd=tmp_path / "many")
        assert [result.code for result in (one, *many)] == [0] * (ranks + 1), [one, *many]
        return one, many

    yield predict


def assert_same_texts(one: Result, many: list[Result], folder: Path) -> None:
    assert len(one.texts) == len(PROMPTS) and len(set(one.texts)) > 2
    assert many[0].texts == one.texts
    assert all((rank.out, rank.err) == ("", "") for rank in many[1:])
    assert (folder / "many" / RESULTS).read_bytes() == (folder / "one" / RESULTS).read_bytes()


def test_a_file_of_prompts_on_two_ranks(predicted, glm4_0414, tmp_path):
    one, many = predicted(2, "--model_name_or_path", glm4_0414, *BATCHES)
    assert_same_texts(one, many, tmp_path)


def test_a_conversation_on_two_ranks(run, run_npu, glm4_0414):
    """Rank 0 reads the questions and prints, both generate."""
    words = ["predict_generation.py", "--model_name_or_path", glm4_0414, "--chat", *LENGTHS]
    questions = f"{PROMPTS[0]}\n{PROMPTS[3]}\n/clear\n{PROMPTS[3]}\n"
    one, many = run(*words, stdin=questions), run_npu.ranks(2, *words, stdin=questions)
    assert [result.code for result in (one, *many)] == [0, 0, 0], [one, *many]
    assert len(set(one.out.splitlines())) >= 3
    assert many[0].out == one.out
    assert (many[1].out, many[1].err) == ("", "")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param([], id="greedy"),
        pytest.param(["--do_sample", "--temperature", "2", "--seed", "6"], id="sampling", marks=pytest.mark.slow),
    ],
)
def test_more_ranks_than_key_value_heads(predicted, glm4_0414, family_adapter, tmp_path, way):
    words = ["--model_name_or_path", glm4_0414, "--lora_path", family_adapter, *BATCHES, *way]
    one, many = predicted(MORE_RANKS, *words)
    assert_same_texts(one, many, tmp_path)


def test_what_more_ranks_save(run_npu, family_model, tmp_path):
    """Without copies in either format; bit for bit the model at degree 1, and the same model on two ranks."""
    ranks = run_npu.ranks(MORE_RANKS, "tests/scripts/save_formats.py", family_model, tmp_path)
    assert [rank.code for rank in ranks] == [0] * MORE_RANKS, ranks
    config = GLMConfig.from_pretrained(str(family_model))
    stored = load_state(family_model, config)
    for name in ("safetensors", "pdparams"):
        assert len(list((tmp_path / name).glob(f"*.{name}"))) == MORE_RANKS
        saved = load_state(tmp_path / name, config)
        assert saved.keys() == stored.keys()
        assert all(saved[name].tobytes() == array.tobytes() for name, array in stored.items())


def test_more_ranks_do_not_train(run_npu, glm4_0414, rows, tmp_path):
    words = ["finetune_generation.py", "--model_name_or_path", glm4_0414, "--data_path", rows, "--do_train"]
    words += ["--output_dir", tmp_path / "run", "--tensor_parallel_degree", MORE_RANKS, "--device", "npu"]
    said = "tensor_parallel_degree 4 predicts but does not train with 2 key/value heads"
    for rank in run_npu.ranks(MORE_RANKS, *words):
        assert rank.code in (1, 2), rank
        assert rank.err.count("error: ") == 1 and said in rank.err and "train with 2 at most" in rank.err, rank
    assert not (tmp_path / "run").exists()

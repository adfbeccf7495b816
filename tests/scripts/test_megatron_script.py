"""Megatron-core checkpoints from the command line: every command of docs/conversion.md, on a small GLM-4-9B."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from commands import GREEDY, ROOT
from family_models import write_family_model
from safetensors.numpy import load_file

PAGE = (ROOT / "docs" / "conversion.md").read_text(encoding="utf-8")
BLOCK = re.search(r"## Megatron-core and.*?```bash\n(.*?)```", PAGE, flags=re.DOTALL)[1]
COMMANDS = [shlex.split(line)[1:] for line in BLOCK.splitlines()]
CONVERSIONS = [words for words in COMMANDS if words[0] == "convert_checkpoint.py"]
PREDICTION, TRAINING = COMMANDS[len(CONVERSIONS) :]
SHORT = ["--src_length", "32", "--tgt_length", "4"]


@pytest.fixture(scope="module")
def converted(run, tmp_path_factory) -> Path:
    """A folder in which the documented conversions were run, from a small model of the documented name."""
    folder = tmp_path_factory.mktemp("megatron")
    write_family_model(folder / "glm-4-9b", "glm4-remote", num_hidden_layers=40)
    for words in CONVERSIONS:
        result = run(*words, cwd=folder)
        assert result.code == 0, result.err
    return folder


def test_the_documented_conversions(converted):
    """Two ranks of two stages, equal and as listed; and what comes back is what transformers would have had."""
    for name in ("glm-4-9b-mcore", "glm-4-9b-tune"):
        there = {path.parent.name for path in (converted / name).glob("iter_0000001/*/model_optim_rng.pt")}
        assert there == {f"mp_rank_0{rank}_00{stage}" for rank in range(2) for stage in range(2)}
    assert (converted / "glm-4-9b-mcore" / "latest_checkpointed_iteration.txt").read_text() == "1\n"
    assert (converted / "glm-4-9b-tune" / "tokenizer_config.json").is_file()
    weights = load_file(converted / "glm-4-9b-back" / "model.safetensors")
    source = load_file(converted / "glm-4-9b" / "model.safetensors")
    embedding = source["transformer.embedding.word_embeddings.weight"]
    assert (weights["model.embed_tokens.weight"] == embedding).all()
    assert sum(array.size for array in weights.values()) == sum(array.size for array in source.values())


def test_the_documented_prediction(run, converted):
    """The texts of the model that was converted."""
    place = PREDICTION.index("glm-4-9b-mcore")
    texts = []
    for name in ("glm-4-9b", "glm-4-9b-mcore"):
        words = [*PREDICTION[:place], name, *PREDICTION[place + 1 :], *GREEDY]
        result = run(*words, cwd=converted)
        assert result.code == 0, result.err
        texts.append(result.texts)
    assert texts[0] == texts[1]
    assert len(texts[0]) == 1


def test_the_documented_training(run, converted):
    """One step from Megatron's files; the model that it saves is whole."""
    folder = converted / "training"
    folder.mkdir()
    for name in ("glm-4-9b-mcore", "data"):
        (folder / name).symlink_to(ROOT / "data" if name == "data" else converted / name)
    rows = ["--src_length", "48", "--tgt_length", "16", "--per_device_train_batch_size", "1"]
    result = run(*TRAINING, *rows, "--gradient_accumulation_steps", "1", cwd=folder)
    assert result.code == 0, result.err
    assert (folder / "output" / "tuned" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--format", "mcore", "--num_layer_list", "22;18"],
            2,
            "'22;18' are no numbers of layers: write",
        ),
        (["--format", "mcore", "--tensor_parallel_degree", "4"], 1, "degree 4 does not divide the 2 key/value groups"),
        (["--format", "mcore", "--pipeline_parallel_degree", "3"], 1, "degree 3 does not divide num_layers 40"),
        (["--format", "hf", "--pipeline_parallel_degree", "2"], 1, "degree 2 with format hf: only mcore"),
    ],
)
def test_errors_are_one_line(run, converted, tmp_path, words, code, message):
    result = run("convert_checkpoint.py", "--source", converted / "glm-4-9b", "--target", tmp_path / "target", *words)
    assert (result.code, result.out, result.err.count("\n")) == (code, "", 1)
    assert message in result.error
    assert not (tmp_path / "target").exists()


def test_what_a_training_run_leaves_lacks_a_tokenizer(run, converted, tmp_path):
    """And a rank that was not copied is named; nothing is half written."""
    bare = tmp_path / "bare"
    shutil.copytree(converted / "glm-4-9b-tune", bare, ignore=shutil.ignore_patterns("*.json", "*.model", "*.py"))
    result = run("predict_generation.py", "--model_name_or_path", bare, *SHORT, "你好")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{bare} holds no tokenizer" in result.error
    shutil.rmtree(bare / "iter_0000001" / "mp_rank_01_001")
    result = run("convert_checkpoint.py", "--source", bare, "--target", tmp_path / "hf", "--format", "hf")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "lacks mp_rank_01_001, and its args say 2 tensor-parallel ranks of 2 pipeline stages" in result.error
    assert not (tmp_path / "hf").exists()

"""Every command line of the seed runs on glm-tiny-chinese, with the substitutions that seed_commands.py lists."""

import json
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Result
from safetensors.numpy import load_file
from seed_commands import COMMANDS, seed_command

SEED = Path("/work/shared/seeds/paddlenlp-glm.md")
HEADS = 4
RUN_FILES = [
    "all_results.json",
    "cog-pretrain.model",
    "eval_predictions.jsonl",
    "eval_results.json",
    "loss.png",
    "loss_history.jsonl",
    "tokenizer_config.json",
    "train_results.json",
    "trainer_state.json",
    "training_args.bin",
]
STATE_FILES = ["optimizer.pdopt", "rng_state.pth", "scheduler.pdparams", "trainer_state.json", "training_args.bin"]


class Seed:
    """An empty directory in which commands of the seed run."""

    def __init__(self, run, directory: Path):
        self._run, self.directory = run, directory
        self.model = directory / "checkpoints" / "glm-large-chinese"

    def run(self, name: str, *few) -> Result:
        command = seed_command(name)
        result = self._run(command.script, *command.arguments, *few, cwd=self.directory)
        assert result.code == 0, result.err
        return result

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.model / name).read_text(encoding="utf-8").splitlines()]

    def tree(self) -> set[str]:
        return {path.name for path in self.model.iterdir()}


@pytest.fixture(scope="module")
def two_rows(tmp_path_factory) -> Path:
    """Rows of both formats, eight to train on and two to evaluate on: the seed asks for 5 beams and 160 tokens."""
    folder = tmp_path_factory.mktemp("two")
    row = {"context": "云溪桥建于1920年。", "answer": "1920年", "question": "云溪桥建于哪一年"}
    row |= {"instruction": "重复下面的词。", "input": "德菊清", "output": "德菊清"}
    for name, count in (("train", 8), ("dev", 2)):
        (folder / f"{name}.json").write_text((json.dumps(row, ensure_ascii=False) + "\n") * count, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def full(run, two_rows, tmp_path_factory) -> Seed:
    seed = Seed(run, tmp_path_factory.mktemp("full"))
    seed.run("full", "--max_steps", 100, "--data_path", two_rows)
    return seed


@pytest.fixture(scope="module")
def lora(run, two_rows, tmp_path_factory) -> Seed:
    seed = Seed(run, tmp_path_factory.mktemp("lora"))
    seed.run("lora", "--max_steps", 6, "--data_path", two_rows, "--learning_rate", "2e-2")
    return seed


@pytest.mark.skipif(not SEED.is_file(), reason=f"{SEED} is not on this machine")
def test_the_commands_are_those_of_the_seed():
    """Flag by flag. The seed leaves out some line ends' backslashes, so its blocks are joined first."""
    blocks = re.findall(r"```(?:shell)?\n(.*?)```", SEED.read_text(encoding="utf-8"), flags=re.DOTALL)
    joined = [" ".join(block.replace("\\\n", " ").split()) for block in blocks]
    scripts = [shlex.split(line) for line in joined if line.startswith("python ") and ".py" in line]
    assert scripts == [shlex.split(line) for line in COMMANDS.values()]


def test_full_fine_tuning(full):
    assert full.tree() >= {*RUN_FILES, "checkpoint-100", "config.json", "model.safetensors"}
    assert {path.name for path in (full.model / "checkpoint-100").iterdir()} >= {*STATE_FILES, "model.safetensors"}
    assert json.loads((full.model / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 100
    results = json.loads((full.model / "all_results.json").read_text(encoding="utf-8"))
    assert results.keys() >= {"train_loss", "train_tokens_per_second", "eval_loss", "eval_bleu4", "eval_rougeL"}
    assert results["parameters"] == results["trained_parameters"] == 1_104_896


def test_lora_fine_tuning(lora):
    assert lora.tree() >= {*RUN_FILES, "lora_config.json", "lora_model_state.pdparams"}
    assert json.loads((lora.model / "lora_config.json").read_text(encoding="utf-8"))["r"] == 8
    results = json.loads((lora.model / "train_results.json").read_text(encoding="utf-8"))
    # 4 layers of q, k and v: [128, 8] and [8, 128] each.
    assert results["trained_parameters"] == 4 * 3 * 2 * 128 * 8


def test_tensor_parallel_fine_tuning_in_one_process(run, two_rows, tmp_path):
    seed = Seed(run, tmp_path)
    seed.run("tensor parallel", "--max_steps", 6, "--data_path", two_rows)
    assert seed.tree() >= {*RUN_FILES, "model.safetensors"}
    assert "checkpoint-6" not in seed.tree()  # --save_steps 10000
    assert [row["step"] for row in seed.lines("eval_history.jsonl")] == [4, 6]  # --eval_steps 4, and the end


def test_belle_fine_tuning(run, two_rows, tmp_path):
    seed = Seed(run, tmp_path)
    seed.run("belle", "--max_steps", 4, "--data_path", two_rows)
    assert seed.tree() >= {*RUN_FILES, "model.safetensors"}
    rows = seed.lines("eval_predictions.jsonl")
    assert [row["source"] for row in rows] == ["Human: 重复下面的词。德菊清\n Assistant: "] * 2
    assert [row["reference"] for row in rows] == ["德菊清"] * 2


def test_export_infer_and_predict(full):
    exported = full.run("export")
    assert "1,104,896 parameters (float32)" in exported.out
    inferred, predicted = full.run("infer"), full.run("predict")
    assert len(predicted.texts) == 2
    assert all(predicted.texts)
    assert inferred.out == predicted.out


def test_export_and_predict_with_lora(lora):
    lora.run("export lora")
    inferred, predicted = lora.run("infer"), lora.run("predict lora")
    assert all(predicted.texts)
    assert inferred.out == predicted.out
    without = lora._run("predict_generation.py", "--model_name_or_path", TINY)
    assert without.texts != predicted.texts


def test_prediction_and_evaluation_use_the_adapter_on_the_same_base(lora):
    """glm-tiny-chinese has no trained weights; its random ones must be the same in every process."""
    rows = lora.lines("eval_predictions.jsonl")
    decode = ["--num_beams", "5", "--min_tgt_length", "55", "--tgt_length", "160", "--no_repeat_ngram_size", "3"]
    predicted = lora.run("predict lora", rows[0]["source"], *decode)
    assert predicted.texts == [rows[0]["prediction"]]


def test_tensor_parallel_files_are_merged(run, full, tmp_path):
    """The seed's directory of four files, cut here by hand from the trained model."""
    seed = Seed(run, tmp_path)
    source, shards = full.model / "checkpoint-100", seed.model / "checkpoint-100"
    shards.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".model"):
            (shards / path.name).write_bytes(path.read_bytes())
    stored = load_file(source / "model.safetensors")
    for rank in range(4):
        shard = {name: cut(name, array, rank, 4) for name, array in stored.items()}
        (shards / f"model_state.tp{rank:02d}.pdparams").write_bytes(pickle.dumps(shard, protocol=4))
    predicted = seed.run("merge")
    merged = seed.directory / "checkpoints" / "glm-merged"
    weights = load_file(merged / "model.safetensors")
    assert weights.keys() == stored.keys()
    assert all(np.array_equal(weights[name], array) for name, array in stored.items())
    assert (merged / "cog-pretrain.model").is_file()
    assert predicted.texts == full.run("predict").texts


def cut(name: str, array: np.ndarray, rank: int, degree: int) -> np.ndarray:
    """A rank's part of a tensor of PaddleNLP's GLM; query, key and value alternate per head there."""

    def part(x: np.ndarray, axis: int) -> np.ndarray:
        return np.ascontiguousarray(np.split(x, degree, axis)[rank])

    if ".query_key_value." in name:
        lead, width = array.shape[:-1], array.shape[-1]
        heads = array.reshape(*lead, 3, HEADS, width // 3 // HEADS).swapaxes(-3, -2)
        return part(heads.reshape(*lead, width), -1)
    if ".dense_h_to_4h." in name:
        return part(array, -1)
    if name.endswith(("word_embeddings.weight", ".attention.dense.weight", ".dense_4h_to_h.weight")):
        return part(array, 0)
    return array


def test_half_precision_is_refused(run, tmp_path):
    """The substitution that drops --fp16 is needed on a CPU, and says so."""
    command = seed_command("full", substitute=False)
    arguments = [TINY if word == "THUDM/glm-large-chinese" else word for word in command.arguments]
    result = run(command.script, *arguments, cwd=tmp_path)
    assert result.code == 2
    assert re.fullmatch(r"error: .*fp16 needs a GPU or an NPU.*\n", result.err)
    assert not list(tmp_path.iterdir())

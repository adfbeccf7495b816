"""Every command line of the seed runs on glm-tiny-chinese, with the substitutions that seed_commands.py lists."""

import difflib
import json
import re
import shlex

import numpy as np
import pytest
from commands import TINY
from safetensors.numpy import load_file
from seed_commands import COMMANDS, ON_CPU, ON_NPU, ON_NPUS, RUN_FILES, STATE_FILES, Seed, seed_command, seed_line
from shards import write_shards
from shared_files import SHARED

SEED = SHARED / "seeds" / "paddlenlp-glm.md"


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


EIGHT, FOUR = "--gpus 0,1,2,3,4,5,6,7", "--gpus 0,1,2,3"
SMALL = ("THUDM/glm-large-chinese", TINY)
REPLACED = {
    "one process on the CPU": (
        ON_CPU,
        {
            SMALL,
            ("--fp16 --fp16_opt_level O2", ""),
            ("--fp16", ""),
            (f"-m paddle.distributed.launch {EIGHT}", ""),
            (f"-m paddle.distributed.launch {FOUR}", ""),
            ("--tensor_parallel_degree 8", ""),
        },
    ),
    "one simulated NPU": (ON_NPU, {SMALL}),
    "two simulated NPUs": (ON_NPUS, {SMALL, (EIGHT, "--devices 0,1"), (FOUR, "--devices 0,1"), ("8", "2")}),
}


@pytest.mark.parametrize("where", REPLACED)
def test_what_is_replaced(where):
    """Word by word, what the tests run instead of what the seed says; all else stays."""
    substitutions, wanted = REPLACED[where]
    found = set()
    for name in COMMANDS:
        before, after = (shlex.split(seed_line(name, table)) for table in ({}, substitutions))
        changes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        found |= {(" ".join(before[a:b]), " ".join(after[c:d])) for kind, a, b, c, d in changes if kind != "equal"}
    assert found == wanted


def test_full_fine_tuning(full):
    assert full.tree() >= {*RUN_FILES, "checkpoint-100", "config.json", "model.safetensors"}
    assert {path.name for path in (full.model / "checkpoint-100").iterdir()} >= {*STATE_FILES, "model.safetensors"}
    assert json.loads((full.model / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 100
    results = full.results()
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
    without = lora.run_script("predict_generation.py", "--model_name_or_path", TINY)
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
    source = full.model / "checkpoint-100"
    write_shards(source, seed.model / "checkpoint-100", 4)
    predicted = seed.run("merge")
    merged = seed.directory / "checkpoints" / "glm-merged"
    stored, weights = (load_file(path / "model.safetensors") for path in (source, merged))
    assert weights.keys() == stored.keys()
    assert all(np.array_equal(weights[name], array) for name, array in stored.items())
    assert (merged / "cog-pretrain.model").is_file()
    assert predicted.texts == full.run("predict").texts


def test_half_precision_is_refused(run, tmp_path):
    """The substitution that drops --fp16 is needed on a CPU, and says so."""
    command = seed_command("full", ON_NPU)
    result = run(command.script, *command.arguments, cwd=tmp_path)
    assert result.code == 2
    assert re.fullmatch(r"error: .*fp16 needs a GPU or an NPU.*\n", result.err)
    assert not list(tmp_path.iterdir())

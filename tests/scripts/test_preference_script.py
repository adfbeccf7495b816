"""finetune_preference.py as a user starts it: the commands of docs/preference.md, what is learned, bad input."""

import json
import re
import sys
from pathlib import Path

import pytest
from commands import ROOT, commands_of, run_guide
from in_process import run_main
from preference_runs import lines_of, preference_arguments, write_chat_model, write_data

from tests.npu_simulator.launching import needs_compiler

sys.path.append(str(ROOT))
import finetune_preference

LAUNCHER = ["-m", "paddle.distributed.launch"]


def shown() -> list[list[str]]:
    return commands_of((ROOT / "docs/preference.md").read_text("utf-8"))


def guide() -> list[list[str]]:
    """Those of one process and a tiny model."""
    return [words for words in shown() if words[0] != "-m"]


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """The folder that the commands wrote into, and how each ended."""
    return run_guide(run, guide(), tmp_path_factory.mktemp("guide"))


@pytest.mark.slow
def test_every_command_runs(done):
    scripts = [words[0].removesuffix(".py") for words in guide()]
    tuned, *others = scripts[3:]
    assert scripts[:3] == ["finetune_preference"] * 3 and tuned == "finetune_preference"
    assert others == ["predict_generation", "export_generation_model", "infer_generation"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "before", "after"), [("dpo", 0.5, 0.95), ("orpo", 0.6, 0.9)])
def test_held_out_pairs_are_told_apart(done, name, before, after):
    """From random weights, which prefer short answers, to a model that prefers the better ones, with unseen names."""
    first, *_, last = lines_of(done[0] / name / "eval_history.jsonl")
    wanted = "eval_rewards/accuracies" if name == "dpo" else "eval_logps/accuracies"
    assert first[wanted] <= before and last[wanted] >= after
    assert last["eval_loss"] < first["eval_loss"] / 1.5


@pytest.mark.slow
def test_the_result_is_used_like_any_other(done):
    """The adapter beside the model, and merged into an export."""
    *_, predicted, _, inferred = done[1]
    assert len(predicted.texts) == 1 and predicted.texts[0]
    assert inferred.texts == predicted.texts


@pytest.mark.slow
@needs_compiler
def test_the_launched_command(run_npu, tmp_path):
    """On a tiny model, a few pairs and two simulated NPUs."""
    [words] = [words for words in shown() if words[:2] == LAUNCHER]
    words = words[words.index("finetune_preference.py") :]
    model, data = write_chat_model(tmp_path / "model", "glm4-remote"), write_data(tmp_path / "data")
    small = {"model_name_or_path": model, "data_path": data / "train.json", "output_dir": tmp_path / "out"}
    small |= {"max_length": 128, "src_length": 96, "tgt_length": 48, "bf16": False, "per_device_train_batch_size": 1}
    flags = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    for result in run_npu.ranks(2, *words, *flags):
        assert result.code == 0, result.err
    assert len(lines_of(tmp_path / "out" / "loss_history.jsonl")) == 3  # of 24 pairs, 8 a step
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_loss"] > 0


# bad input, in this process

ROWS = {
    "equal": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen"),
    "empty": ({"prompt": "a", "chosen": "", "rejected": "b"}, "chosen"),
    "sort": ({"src": ["a"], "tgt": [], "response": ["b", "c"], "sort": [1, 1]}, "sort"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("model") / "chat")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tune(monkeypatch, capsys, model, data, tmp_path):
    """Exit code, standard output and error of the script in this process."""

    def tuned(**flags):
        arguments = preference_arguments(model, data, tmp_path / "out", **{"max_steps": 2, "save_steps": 9} | flags)
        return run_main(finetune_preference.main, monkeypatch, capsys, *arguments)

    return tuned


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_one_line(tune, data, tmp_path, name):
    """With file and row; --skip_bad_rows leaves it out and counts it."""
    row, word = ROWS[name]
    path = tmp_path / "rows.json"
    good = (data / "train.json").read_text("utf-8").splitlines()[:8]
    path.write_text("\n".join([*good[:2], json.dumps(row), *good[2:]]) + "\n", encoding="utf-8")
    code, _, err = tune(data_path=path)
    error = err.rstrip("\n").rsplit("\n", 1)[-1]
    assert code and error.startswith("error: ") and "rows.json" in error and "line 3" in error and word in error
    assert "--skip_bad_rows" in error and "Traceback" not in err and not (tmp_path / "out").exists()
    code, _, err = tune(data_path=path, skip_bad_rows=True)
    assert code == 0 and "8 rows, 1 bad ones left out" in err, err


WRONG = {
    "loss": ({"loss_type": "dpo"}, 2, "invalid choice: 'dpo'"),
    "beta": ({"beta": 0}, 2, "beta is 0.0, and must be above 0"),
    "GLM": ({"model_name_or_path": "glm-tiny-chinese"}, 2, "glm-tiny-chinese is a glm-chinese model"),
    "flag": ({"label_smoothing": 0.1}, 2, "unknown argument --label_smoothing; did you mean --dpo_label_smoothing?"),
    "task": ({"task_name": "alpaca"}, 1, "task_name 'alpaca' is unknown; known tasks: preference"),
    "prompt": ({"src_length": 20, "tgt_length": 4}, 1, "train: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags_are_one_line(tune, tmp_path, name):
    flags, wanted, message = WRONG[name]
    code, _, err = tune(**flags)
    error = err.rstrip("\n").rsplit("\n", 1)[-1]
    assert (code, error.startswith("error: "), message in error) == (wanted, True, True), err
    assert err.count("error: ") == 1 and "Traceback" not in err and not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_run_from_the_command_line(tune, tmp_path):
    """A table of before and after, and the best figures beside the bar."""
    code, out, err = tune(do_eval=True, disable_tqdm=False, lora=True, save_peft=True)
    assert code == 0, err
    assert "evaluation on 6 held-out pairs" in out and "before" in out and "after" in out
    assert re.search(r"│ rewards/margins +│ +-?0.0000 │", out) and "progress_or_epoch" not in out.split("held-out")[1]
    assert re.search(r"step 1/2: loss 0\.6931, .*margin -?0\.000, accuracy", err)
    assert (tmp_path / "out" / "peft" / "adapter_model.safetensors").is_file()

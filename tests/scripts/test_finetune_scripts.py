"""The fine-tuning scripts: what they write, what they read, and whether evaluation obeys its flags."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from commands import GREEDY, SAMPLE, SHORT, TINY, predictions

ONCE = ["--do_train", "--max_steps", "2", "--per_device_train_batch_size", "4"]


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def tune(run, rows, tmp_path):
    """Runs finetune_generation.py on the small rows into tmp_path/out."""

    def tuned(*arguments, model=TINY, data=rows, out=tmp_path / "out", script="finetune_generation.py"):
        where = ["--model_name_or_path", model, "--data_path", data, "--output_dir", out]
        return run(script, *where, *SHORT, *arguments)

    return tuned


# what a run shows and writes


def test_a_run_from_the_command_line(trained):
    """Started by a cold interpreter: what a user sees is what the suite writes, and nothing of Paddle's own log."""
    directory, result = trained
    lines = result.err.replace("\r", "\n").splitlines()
    rates = [json.loads(line)["learning_rate"] for line in (directory / "loss_history.jsonl").read_text().splitlines()]
    for step in (40, 80, 120):
        assert any(f"step {step}/120: loss" in line and f"lr {rates[step - 1]:.2e}," in line for line in lines), step
    strange = [line for line in lines if line.strip() and not line.startswith(("train", "step ", "dev"))]
    assert strange == []
    assert "step 120/120: loss" in result.err
    assert "train_tokens_per_second" in result.out
    results = read(directory / "train_results.json")
    assert results == read(directory / "all_results.json")
    losses = [json.loads(line)["loss"] for line in (directory / "loss_history.jsonl").read_text().splitlines()]
    assert len(losses) == 120
    assert losses[-1] < losses[0] / 2
    assert (directory / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_save_total_limit_keeps_the_newest(trained):
    assert [path.name for path in trained[0].glob("checkpoint-*")] == ["checkpoint-120"]


def test_metrics_of_every_evaluation_are_shown_and_kept(tune, tmp_path):
    result = tune(*ONCE, *GREEDY, "--do_eval", "--eval_steps", "1", "--tgt_length", "8")
    assert result.code == 0, result.err
    history = [json.loads(line) for line in (tmp_path / "out" / "eval_history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [1, 2]
    assert f"step 1/2: evaluation: loss {history[0]['eval_loss']:.4f}" in result.err
    results = read(tmp_path / "out" / "eval_results.json")
    assert results["eval_loss"] == history[-1]["eval_loss"]
    assert read(tmp_path / "out" / "all_results.json").items() >= results.items()


def test_without_eval_steps_evaluation_comes_at_the_end(tune, tmp_path):
    result = tune(*ONCE, *GREEDY, "--do_eval", "--logging_steps", "1", "--tgt_length", "8")
    assert result.code == 0, result.err
    history = [json.loads(line) for line in (tmp_path / "out" / "eval_history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == [2]


def test_weights_as_pdparams(tune, run, tmp_path):
    assert tune(*ONCE, "--weight_format", "pdparams").code == 0
    out = tmp_path / "out"
    assert (out / "model_state.pdparams").is_file()
    assert not (out / "model.safetensors").exists()
    assert run("predict_generation.py", "--model_name_or_path", out, "云").code == 0


def test_export_after_training(tune, run, tmp_path):
    assert tune(*ONCE, "--do_export", "True").code == 0
    result = run("infer_generation.py", "--model_path", tmp_path / "out" / "export", "云溪桥")
    assert result.out == run("predict_generation.py", "--model_name_or_path", tmp_path / "out", "云溪桥").out


# arguments from a file


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_one_file_as_the_only_argument(run, rows, tmp_path, suffix):
    arguments = {
        "model_name_or_path": TINY,
        "data_path": str(rows),
        "output_dir": str(tmp_path / "out"),
        "do_train": True,
        "max_steps": 2,
        "lora": True,
        "r": 4,
        "learning_rate": 1e-4,
        "src_length": 64,
    }
    yaml = "# a comment\n" + "".join(f"{name}: {value}\n" for name, value in arguments.items())
    path = tmp_path / f"arguments.{suffix}"
    path.write_text(json.dumps(arguments) if suffix == "json" else yaml, encoding="utf-8")
    result = run("finetune_generation.py", path)
    assert result.code == 0, result.err
    assert read(tmp_path / "out" / "lora_config.json")["r"] == 4
    first = json.loads((tmp_path / "out" / "loss_history.jsonl").read_text().splitlines()[0])
    assert first["learning_rate"] == 1e-4


# data


def test_rows_are_held_out_where_the_data_has_no_evaluation_split(tune, rows, tmp_path):
    result = tune(*ONCE, *GREEDY, "--do_eval", "--tgt_length", "8", data=rows / "train.json")
    assert result.code == 0, result.err
    assert "held out" not in result.err  # dev.json stands beside it
    alone = tmp_path / "alone.json"
    shutil.copy(rows / "train.json", alone)
    result = tune(*ONCE, *GREEDY, "--do_eval", "--tgt_length", "8", data=alone, out=tmp_path / "second")
    assert "the data has no evaluation split: its last 2 rows are held out" in result.err
    lines = (tmp_path / "second" / "eval_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    last = [json.loads(line) for line in alone.read_text(encoding="utf-8").splitlines()[-2:]]
    wanted = [f"答案：{row['answer']}，上下文：{row['context']}" for row in last]
    assert [json.loads(line)["source"] for line in lines] == wanted


def test_long_texts_are_cut_and_counted(tune):
    result = tune(*ONCE, "--src_length", "20", "--tgt_length", "10")
    assert result.code == 0, result.err
    assert "truncated: 40 sources to src_length 20 (their beginning is lost), 40 targets to tgt_length 10" in result.err


def test_bad_rows_are_named_or_skipped(tune, rows, tmp_path):
    good = (rows / "train.json").read_text(encoding="utf-8").splitlines(keepends=True)
    bad = tmp_path / "bad.json"
    bad.write_text("".join([good[0], '{"context": "云", "answer": "溪"}\n', *good[1:4]]), encoding="utf-8")
    result = tune(*ONCE, data=bad)
    assert result.code == 1
    assert f"{bad}, line 2: field 'question' or 'target' is missing" in result.error
    result = tune(*ONCE, "--skip_bad_rows", data=bad)
    assert result.code == 0, result.err
    assert f"{bad} (4 rows, 1 bad ones left out)" in result.err


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_row_that_has_no_place_is_named_with_its_split(run, tmp_path, split):
    def rows(role):
        return (
            json.dumps({"messages": [{"role": role, "content": "云"}, {"role": "assistant", "content": "溪"}]}) + "\n"
        )

    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text(rows("user") * 2 + rows("tool" if name == split else "user"))
    data = ["--task_name", "messages", "--data_path", tmp_path, "--output_dir", tmp_path / "out"]
    result = run(
        "finetune_instruction_generation.py", "--model_name_or_path", "chatglm-6b-tiny", *data, *ONCE, "--do_eval"
    )
    assert result.code == 1, result.err
    assert result.error.startswith(f"error: {split}: row 3 of 3: "), result.error


def test_belle_from_the_bundled_sample(run, tmp_path):
    names = ["--task_name", "multiturn_chat_0.8M", "--data_name", "bellegroup"]
    where = ["--model_name_or_path", TINY, "--output_dir", tmp_path / "out"]
    result = run("finetune_instruction_generation.py", *names, *where, *ONCE, *SHORT)
    assert result.code == 0, result.err
    assert "the bundled sample" in result.err
    assert "BelleGroup/multiturn_chat_0.8M" in result.err


# resuming


def test_an_interrupted_run_continues(tune, tmp_path):
    """Four steps in one go, and two and two, give the same losses and weights."""
    steps = [*ONCE[:2], "4", *ONCE[3:], "--save_steps", "2"]
    assert tune(*steps, out=tmp_path / "unbroken").code == 0
    shutil.copytree(tmp_path / "unbroken" / "checkpoint-2", tmp_path / "out" / "checkpoint-2")
    shutil.copy(tmp_path / "unbroken" / "loss_history.jsonl", tmp_path / "out")
    result = tune(*steps)
    assert f"resuming from {tmp_path / 'out' / 'checkpoint-2'}" in result.err
    for name in ("loss_history.jsonl", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_finished_run_trains_no_further(tune, tmp_path):
    steps = [*ONCE, "--save_steps", "1"]
    assert tune(*steps).code == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    result = tune(*steps)
    assert result.code == 0, result.err
    assert "checkpoint-2 is the last step of this run: nothing left to train" in result.err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert read(tmp_path / "out" / "trainer_state.json")["global_step"] == 2


@pytest.mark.parametrize("first", [[], ["--lora", "True"]], ids=["full", "lora"])
def test_full_and_lora_runs_do_not_mix(tune, first):
    """The seed's two commands name the same output_dir."""
    second = [] if first else ["--lora", "True"]
    assert tune(*ONCE, *first, "--save_steps", "2").code == 0
    result = tune(*ONCE, *second)
    assert result.code == 2
    assert "choose another output_dir, or pass --overwrite_output_dir" in result.error
    assert tune(*ONCE, *second, "--overwrite_output_dir").code == 0


def test_overwriting_leaves_no_results_of_the_earlier_run(tune, tmp_path):
    assert tune(*ONCE, *GREEDY, "--do_eval", "--save_steps", "1", "--tgt_length", "8").code == 0
    assert tune(*ONCE, "--overwrite_output_dir").code == 0
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert not [name for name in read(tmp_path / "out" / "all_results.json") if name.startswith("eval")]
    assert not list((tmp_path / "out").glob("eval*"))


def test_continuing_with_an_adapter(tune, model, adapter, tmp_path):
    result = tune(*ONCE, "--lora_path", adapter, model=model)
    assert result.code == 0, result.err
    assert read(tmp_path / "out" / "lora_config.json")["r"] == 8


# evaluation obeys the decoding flags

DECODING = {
    "greedy": GREEDY,
    "long": [*GREEDY, "--min_tgt_length", "28"],
    "short": [*GREEDY, "--tgt_length", "6"],
    "beams": [*GREEDY, "--num_beams", "5"],
    "long beams": [*GREEDY, "--num_beams", "5", "--min_tgt_length", "28", "--length_penalty", "0.7"],
    "no repeats": [*GREEDY, "--min_tgt_length", "28", "--no_repeat_ngram_size", "2"],
    "sampling": [*GREEDY, "--select_topk", "False", "--temperature", "3"],
    "top k": [*GREEDY, "--select_topk", "False", "--temperature", "3", "--top_k", "1"],
    "temperature 0": [*GREEDY, "--select_topk", "False", "--temperature", "0"],
    "near the best": [*GREEDY, "--select_topk", "False", "--temperature", "3", "--min_p", "1"],
    "repetition": [*GREEDY, "--repetition_penalty", "5"],
    "presence": [*GREEDY, "--presence_penalty", "-2"],
    "frequency": [*GREEDY, "--frequency_penalty", "-2"],
}


@pytest.fixture(scope="module")
def evaluated(run, model, rows, tmp_path_factory) -> dict[str, list[str]]:
    """Predictions of one evaluation for each entry of DECODING."""
    texts = {}
    for name, flags in DECODING.items():
        out = tmp_path_factory.mktemp("evaluated")
        where = ["--model_name_or_path", model, "--data_path", rows, "--output_dir", out]
        result = run("finetune_generation.py", *where, "--do_eval", *SHORT, *flags)
        assert result.code == 0, result.err
        texts[name] = predictions(out)
    return texts


def test_min_tgt_length_makes_texts_go_on(evaluated):
    for short, long in zip(evaluated["greedy"], evaluated["long"], strict=True):
        assert long.startswith(short)
        assert len(long) > len(short)


def test_tgt_length_ends_texts(evaluated):
    for short, long in zip(evaluated["short"], evaluated["greedy"], strict=True):
        assert long.startswith(short)
        assert len(long) > len(short)


def test_beams_find_other_texts(evaluated):
    assert evaluated["long beams"] != evaluated["long"]


def test_no_repeat_ngram_size_forbids_repeats(evaluated, tokenizer):
    def repeats(text: str) -> bool:
        ids = tokenizer.text_ids(text)
        pairs = list(pairwise(ids))
        return len(set(pairs)) < len(pairs)

    assert any(map(repeats, evaluated["long"]))
    assert evaluated["no repeats"] != evaluated["long"]
    assert sum(map(repeats, evaluated["no repeats"])) < sum(map(repeats, evaluated["long"]))


def test_select_topk_false_draws(evaluated):
    assert evaluated["sampling"] != evaluated["greedy"]
    assert evaluated["top k"] == evaluated["greedy"]  # drawing from one token
    assert evaluated["near the best"] == evaluated["greedy"] == evaluated["temperature 0"]


def test_penalties_change_texts(evaluated):
    found = [evaluated[name] for name in ("greedy", "repetition", "presence", "frequency")]
    assert len(set(map(str, found))) >= 3 and found[0] not in found[1:]


def test_evaluation_and_prediction_generate_the_same(run, evaluated, model, sources):
    texts = ["--model_name_or_path", model, "--input_file", sources, *SHORT, "--batch_size", "3"]
    for name in ("greedy", "long beams"):
        assert run("predict_generation.py", *texts, *DECODING[name]).texts == evaluated[name]


def test_evaluation_alone_needs_no_empty_directory(run, model, rows, evaluated, tmp_path):
    """The reference refuses a full directory for training only."""
    shutil.copytree(model, tmp_path / "out", ignore=shutil.ignore_patterns("checkpoint-*"))
    where = ["--model_name_or_path", tmp_path / "out", "--output_dir", tmp_path / "out", "--data_path", rows]
    result = run("finetune_generation.py", *where, "--do_eval", *SHORT, *GREEDY)
    assert result.code == 0, result.err
    assert predictions(tmp_path / "out") == evaluated["greedy"]
    assert read(tmp_path / "out" / "all_results.json").keys() >= {"train_loss", "eval_loss"}


def test_do_predict_takes_the_evaluation_rows_where_there_is_no_test_split(tune, model, evaluated, tmp_path):
    result = tune("--do_predict", *GREEDY, model=model)
    assert result.code == 0, result.err
    assert "the data has no test split: --do_predict takes the evaluation rows" in result.err
    assert "test_loss" in read(tmp_path / "out" / "test_results.json")
    assert predictions(tmp_path / "out", "test") == evaluated["greedy"]


def test_do_predict_takes_the_test_split(tune, model, rows, evaluated, tmp_path):
    """Beside --do_eval, whose rows, predictions and history stay its own."""
    data = Path(shutil.copytree(rows, tmp_path / "rows"))
    lines = (rows / "train.json").read_text(encoding="utf-8").splitlines(keepends=True)[:3]
    (data / "test.json").write_text("".join(lines), encoding="utf-8")
    result = tune("--do_eval", "--do_predict", *GREEDY, model=model, data=data)
    assert result.code == 0, result.err
    assert f"test: {data / 'test.json'} (3 rows)" in result.err
    assert "evaluation on 8 held-out rows" in result.out and "evaluation on 3 test rows" in result.out
    out = tmp_path / "out"
    assert predictions(out) == evaluated["greedy"]
    tested = [json.loads(line) for line in (out / "test_predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted = [f"答案：{row['answer']}，上下文：{row['context']}" for row in map(json.loads, lines)]
    assert [row["source"] for row in tested] == wanted
    assert read(out / "test_results.json")["test_loss"] != read(out / "eval_results.json")["eval_loss"]


def test_results_of_the_test_split_join_the_history(tune, rows, tmp_path):
    data = Path(shutil.copytree(rows, tmp_path / "rows"))
    (data / "dev.json").rename(data / "test.json")
    result = tune(*ONCE, *GREEDY, "--do_eval", "--do_predict", "--prediction_loss_only", "True", data=data)
    assert result.code == 0, result.err
    (row,) = map(json.loads, (tmp_path / "out" / "eval_history.jsonl").read_text().splitlines())
    assert row["eval_loss"] == row["test_loss"]  # test.json is also the best evaluation split that there is


def test_prediction_loss_only_generates_nothing(tune, model, rows, tmp_path):
    out = tmp_path / "out"
    assert tune("--do_eval", *GREEDY, "--tgt_length", "8", model=model, out=tmp_path / "whole").code == 0
    result = tune("--do_eval", *GREEDY, "--tgt_length", "8", "--prediction_loss_only", model=model)
    assert result.code == 0, result.err
    assert "samples" not in result.out
    assert read(out / "eval_results.json") == {"eval_loss": read(tmp_path / "whole" / "eval_results.json")["eval_loss"]}
    assert not list(out.glob("*predictions*"))


def test_max_evaluate_steps_takes_the_first_rows(tune, model, evaluated, tmp_path):
    steps = ["--max_evaluate_steps", "2", "--per_device_eval_batch_size", "3"]
    result = tune("--do_eval", *GREEDY, *steps, model=model)
    assert result.code == 0, result.err
    assert "dev: the first 6 of 8 rows (max_evaluate_steps 2)" in result.err
    assert "evaluation on 6 held-out rows" in result.out
    assert predictions(tmp_path / "out") == evaluated["greedy"][:6]


def test_max_evaluate_steps_of_two_replicas(run_npu, model, rows, evaluated, tmp_path):
    where = ["--model_name_or_path", model, "--data_path", rows, "--output_dir", tmp_path / "out", "--bf16", "False"]
    steps = ["--max_evaluate_steps", "1", "--per_device_eval_batch_size", "3"]
    results = run_npu.ranks(2, "finetune_generation.py", *where, "--do_eval", *SHORT, *GREEDY, *steps)
    assert [result.code for result in results] == [0, 0], results[0].err
    assert predictions(tmp_path / "out") == evaluated["greedy"][:6]


def test_the_sample_is_the_default_data(run, model, tmp_path):
    where = ["--model_name_or_path", model, "--output_dir", tmp_path / "out"]
    result = run("finetune_generation.py", *where, *ONCE, *SHORT)
    assert f"the bundled sample {SAMPLE / 'train.json'} (4000 rows of invented text)" in result.err

"""Bad input: one line on standard error that names what is wrong, exit code 2 for usage and 1 otherwise."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import SHORT, TINY, Result

FINETUNE, PREDICT, INFER = (f"{name}_generation.py" for name in ("finetune", "predict", "infer"))
EXPORT = "export_generation_model.py"
TEXT = "云溪桥"


def assert_error(result: Result, code: int, pattern: str) -> None:
    """One line that matches, last, at the line's beginning, without a traceback."""
    assert result.code == code, result.err
    assert re.match(rf"error: {pattern}", result.error), result.err
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def broken(model, exported, adapter, tmp_path_factory) -> Path:
    """Copies of a model, an export and an adapter, each with one thing wrong, beside files that are no texts."""
    folder = tmp_path_factory.mktemp("broken")

    def copy(source: Path, name: str) -> Path:
        return Path(shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("checkpoint-*", "runs")))

    def change(name: str, **fields) -> None:
        path = copy(model, name) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields), encoding="utf-8")

    copy(model, "good")
    (copy(model, "no config") / "config.json").unlink()
    (copy(model, "no tokenizer") / "cog-pretrain.model").unlink()
    (copy(model, "no weights") / "model.safetensors").unlink()
    (copy(model, "bad json") / "config.json").write_text('{"a":', encoding="utf-8")
    cut(copy(model, "cut weights") / "model.safetensors", 100_000)
    (copy(model, "garbage weights") / "model.safetensors").write_bytes(b"garbage")
    change("small vocabulary", vocab_size=300)
    change("fewer layers", num_layers=2)
    change("unknown family", model_type="bert")
    cut(copy(exported[0], "cut export") / "glm.pdiparams", 100_000)
    graph = copy(exported[0], "garbage graph") / "glm.json"
    graph.write_bytes(b"x" * graph.stat().st_size)
    (copy(exported[0], "bad manifest") / "glm.paddle.manifest.json").write_text("{}", encoding="utf-8")
    (copy(exported[0], "half export") / "glm.pdiparams").unlink()
    cut(copy(adapter, "cut adapter") / "lora_model_state.pdparams", 1000)
    (copy(adapter, "half adapter") / "lora_model_state.pdparams").unlink()
    wide = copy(adapter, "adapter of another rank") / "lora_config.json"
    wide.write_text(json.dumps(json.loads(wide.read_text()) | {"r": 4}), encoding="utf-8")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


ROW = '{"context": "云溪桥", "answer": "桥", "question": "什么"}\n'.encode()
FILES = {
    "empty": b"",
    "blank": b"\n \n",
    "latin": "caf\u00e9\n".encode("latin-1"),
    "empty.json": b"",
    "one.json": ROW,
    "no question.json": ROW + '{"context": "云", "answer": "溪"}\n'.encode(),
    "number.json": ROW + b'{"context": 3, "answer": "a", "question": "b"}\n',
    "cut.json": ROW + b'{"context": "a", "ans',
    "latin.json": ROW + ROW + b'{"context": "\xe9", "answer": "a", "question": "b"}\n',
    "list.yaml": b"- 1\n- 2\n",
    "bad.json": b'{"max_steps": 2,',
    "bad.yaml": b"max_steps: [1\n",
    "unknown.json": b'{"output_dir": "out", "max_stepps": 2}',
}
TRAIN = ["--do_train", "--output_dir", "out", "--max_steps", "1", *SHORT]
TUNE_TINY = [FINETUNE, "--model_name_or_path", TINY, *TRAIN]
TUNE_GOOD = [FINETUNE, "--model_name_or_path", "good", *TRAIN, "--data_path", "one.json"]
GOOD = [PREDICT, "--model_name_or_path", "good"]

# Arguments → exit code and what the line says. Paths are relative to `broken`.
USAGE = {
    "tensor parallel": ([*TUNE_TINY, "--tensor_parallel_degree", "8"], "tensor_parallel_degree is 8, and 1 process"),
    "unknown flag": (
        [*TUNE_TINY, "--warmup_ration", "1"],
        "unknown argument --warmup_ration; did you mean --warmup_ra",
    ),
    "unknown flag of predict": ([*GOOD, "--num_beam", "3"], "unknown argument --num_beam; did you mean --num_beams?"),
    "unknown flag like no other": ([*GOOD, "--xyzzy"], r"unknown argument --xyzzy \(see --help\)"),
    "no output_dir": ([FINETUNE, "--do_train"], "the following arguments are required: --output_dir"),
    "no model": ([PREDICT], "the following arguments are required: --model_name_or_path"),
    "no number": ([*TUNE_TINY, "--learning_rate", "fast"], "argument --learning_rate: invalid float value: 'fast'"),
    "unknown schedule": ([*TUNE_TINY, "--lr_scheduler_type", "lin"], "lin is not a valid SchedulerType"),
    "nothing to do": ([FINETUNE, "--model_name_or_path", TINY, "--output_dir", "out"], "nothing to do: pass --do_t"),
    "batch size 0": ([*TUNE_TINY, "--per_device_train_batch_size", "0"], "per_device_train_batch_size is 0, and must"),
    "output_dir is a file": ([*TUNE_TINY, "--output_dir", "one.json"], "output_dir one.json is a file"),
    "output_dir of others": ([*TUNE_TINY, "--output_dir", "good"], "output_dir good is not empty and holds no check"),
    "no checkpoint": (
        [*TUNE_TINY, "--resume_from_checkpoint", "True"],
        "resume_from_checkpoint True is no checkpoint: .* leave the flag out to resume from the newest one of .* out$",
    ),
    "fp16_full_eval": ([*TUNE_TINY, "--fp16_full_eval"], "fp16_full_eval is True, and evaluation has no use for it"),
    "bf16_full_eval": ([*TUNE_TINY, "--bf16_full_eval"], "bf16_full_eval is True, and evaluation has no use for it"),
    "eval_accumulation": ([*TUNE_TINY, "--eval_accumulation_steps", "2"], "eval_accumulation_steps is 2, and evalua"),
    "best metric of no texts": (
        [*TUNE_TINY, "--prediction_loss_only", "--metric_for_best_model", "bleu4"],
        "metric_for_best_model is bleu4, and prediction_loss_only is True: leave one",
    ),
    "past_index": ([*TUNE_TINY, "--past_index", "1"], "past_index is 1, and evaluation has no use for it: leave it"),
    "label_names": ([*TUNE_TINY, "--label_names", "a"], r"label_names is \['a'\], and evaluation has no use for it"),
    "fp16": ([*TUNE_TINY, "--fp16"], ".*fp16 needs a GPU or an NPU"),
    "bf16": ([*TUNE_TINY, "--bf16", "--fp16_opt_level", "O2"], ".*bf16 needs a GPU or an NPU"),
    "num_beams 0": ([*TUNE_TINY, "--num_beams", "0"], "num_beams is 0, and must be at least 1"),
    "src_length 2": ([*TUNE_TINY, "--src_length", "2"], "src_length is 2; .* at least 4"),
    "src_length 2000": ([*TUNE_TINY, "--src_length", "2000"], "src_length 2000 .* the model ends at 1024"),
    "no such device": ([*TUNE_TINY, "--device", "xpu"], r"device 'xpu' is not on this machine; found: \w"),
    "no file of arguments": ([FINETUNE, "none.json"], "none.json cannot be read: No such file"),
    "bad file of arguments": ([FINETUNE, "bad.json"], r"bad.json is not valid JSON \(Expecting"),
    "bad YAML": ([FINETUNE, "bad.yaml"], r"bad.yaml is not valid YAML \(while"),
    "a list of arguments": ([FINETUNE, "list.yaml"], "list.yaml holds a list; one object of argument names"),
    "unknown flag in a file": ([FINETUNE, "unknown.json"], "unknown argument --max_stepps; did you mean --max_steps?"),
    "predict: device": ([*GOOD, "--device", "xpu", TEXT], "device 'xpu' is not on this machine; found: "),
    "predict: dtype": ([*GOOD, "--dtype", "float16", TEXT], "--dtype float16 needs a GPU or an NPU"),
    "predict: batch": ([*GOOD, "--batch_size", "0", TEXT], "batch_size is 0, and must be at least 1"),
    "predict: lengths": ([*GOOD, "--min_tgt_length", "30", TEXT], r"min_length \(30\) is above max_length \(20\)"),
    "predict: temperature": ([*GOOD, "--temperature", "-1", TEXT], "temperature is -1.0, and must be at least 0"),
    "predict: repetition": (
        [*GOOD, "--repetition_penalty", "0", TEXT],
        "repetition_penalty is 0.0, and must be a number above 0",
    ),
    "predict: presence": (
        [*GOOD, "--presence_penalty", "3", TEXT],
        "presence_penalty is 3.0, and must be between -2 and 2",
    ),
    "predict: min_p": ([*GOOD, "--min_p", "x", TEXT], "argument --min_p: invalid float value: 'x'"),
    "frequency_penalty -3": ([*TUNE_TINY, "--frequency_penalty", "-3"], "frequency_penalty is -3.0, and must be betwe"),
    "predict: top_p": ([*GOOD, "--top_p", "2", TEXT], "top_p is 2.0, and must be between 0 and 1"),
    "predict: stream": (
        [*GOOD, "--stream", "--num_beams", "2", TEXT],
        "a conversation or a stream shows tokens as they come, and num_beams 2",
    ),
    "predict: no file": ([*GOOD, "--input_file", "none"], "none cannot be read: No such file"),
    "predict: a folder": ([*GOOD, "--input_file", "good"], "good cannot be read: Is a directory"),
    "predict: empty file": ([*GOOD, "--input_file", "empty"], "empty holds no text"),
    "predict: blank file": ([*GOOD, "--input_file", "blank"], "blank holds no text"),
    "predict: empty stdin": ([*GOOD, "-"], "standard input holds no text"),
    "predict: no folder": ([*GOOD, "--output_file", "none/out", TEXT], "output_file none/out: none is not a directory"),
    "infer: backend": ([INFER, "--model_path", "x", "--backend", "trt"], "argument --backend: invalid choice: 'trt'"),
    "export: weights of another format": (
        [EXPORT, *GOOD[1:], "--output_path", "x/y", "--weights", "int4"],
        "--weights int4 is of --format onnx, and this is --format paddle: .*--dtype",
    ),
    "export: dtype of another format": (
        [EXPORT, *GOOD[1:], "--output_path", "x/y", "--format", "onnx", "--dtype", "bfloat16"],
        "--dtype bfloat16 is of --format paddle, an onnx export computes in float32",
    ),
    "export: blocks of float32": (
        [EXPORT, *GOOD[1:], "--output_path", "x/y", "--format", "onnx", "--asymmetric"],
        "weights 'fp32' have no blocks",
    ),
    "export: block size": (
        [EXPORT, *GOOD[1:], "--output_path", "x/y", "--format", "onnx", "--weights", "int4", "--block_size", "48"],
        "block size 48 is not a power of 2 from 16 to 256",
    ),
    "export: format": ([EXPORT, *GOOD[1:], "--output_path", "x/y", "--format", "gguf"], ".*--format: invalid choice"),
    "export: dtype": ([EXPORT, *GOOD[1:], "--output_path", "x/y", "--dtype", "float16"], "--dtype float16 needs a GPU"),
}
FAILURES = {
    "unknown preset": (
        [PREDICT, "--model_name_or_path", "glm-tini", TEXT],
        "'glm-tini' is neither a directory nor a pr",
    ),
    "unknown preset, training": (
        [FINETUNE, "--model_name_or_path", "glm-tini", *TRAIN],
        "'glm-tini' is neither a directory nor a preset; presets: glm-tiny-chinese, glm-large-chinese",
    ),
    "no network": (
        [PREDICT, "--model_name_or_path", "THUDM/glm-large-chinese", TEXT],
        r"the weights of THUDM/glm-large-chinese cannot be had from the Hugging Face Hub \(\w+\); download them",
    ),
    "no network for data": ([*TUNE_TINY, "--data_path", "Belle/x"], "data set Belle/x is no path here and cannot be"),
    "no config": ([PREDICT, "--model_name_or_path", "no config", TEXT], "no config holds no config.json"),
    "an adapter as the model": (
        [PREDICT, "--model_name_or_path", "cut adapter", TEXT],
        r"cut adapter holds a LoRA adapter \(lora_config.json\) and no config.json: pass it as --lora_path and its",
    ),
    "an adapter to be exported": (
        [EXPORT, "--model_name_or_path", "cut adapter", "--output_path", "x/y", "--format", "onnx"],
        "cut adapter holds a LoRA adapter",
    ),
    "an over-long name": (
        [PREDICT, "--model_name_or_path", "n" * 300, TEXT],
        "'n{300}' is neither a directory nor a pr",
    ),
    "no tokenizer": ([PREDICT, "--model_name_or_path", "no tokenizer", TEXT], "no tokenizer holds no tokenizer"),
    "no weights": ([PREDICT, "--model_name_or_path", "no weights", TEXT], "no weights holds no weights: found "),
    "bad config": ([PREDICT, "--model_name_or_path", "bad json", TEXT], "bad json/config.json is not valid JSON"),
    "cut weights": ([PREDICT, "--model_name_or_path", "cut weights", TEXT], ".*model.safetensors is damaged or cut"),
    "garbage": ([PREDICT, "--model_name_or_path", "garbage weights", TEXT], ".*model.safetensors is damaged or cut"),
    "small vocabulary": (
        [PREDICT, "--model_name_or_path", "small vocabulary", TEXT],
        r".*embed_tokens.weight \[384, 128\] instead of \[300, 128\]; it holds 1,104,896 parameters, the model has",
    ),
    "vocabulary of another model": (
        [FINETUNE, "--model_name_or_path", "small vocabulary", "--from_scratch", "True", *TRAIN],
        "the tokenizer has 384 tokens and the model's vocabulary 300 rows",
    ),
    "fewer layers": ([PREDICT, "--model_name_or_path", "fewer layers", TEXT], ".*24 unexpected.*holds 1,104,896 param"),
    "generation": (
        [PREDICT, "--model_name_or_path", "unknown family", TEXT],
        ".*model_type 'bert' .* matches no supported family",
    ),
    "export of cut weights": (
        [EXPORT, "--model_name_or_path", "cut weights", "--output_path", "x/y"],
        ".*is damaged or",
    ),
    "onnx export of cut weights": (
        [EXPORT, "--model_name_or_path", "cut weights", "--output_path", "x/y", "--format", "onnx"],
        ".*is damaged or",
    ),
    "onnx export of another shape": (
        [EXPORT, "--model_name_or_path", "fewer layers", "--output_path", "x/y", "--format", "onnx"],
        ".*layers.2.*is not a weight of this model",
    ),
    "onnx export with a foreign adapter": (
        [EXPORT, *GOOD[1:], "--lora_path", "adapter of another rank", "--output_path", "x/y", "--format", "onnx"],
        r"adapter of another rank/lora_config.json gives .*q_proj the rank 4, and lora_A of the file beside it has 8",
    ),
    "export into a checkpoint": (
        [EXPORT, *GOOD[1:], "--output_path", "good/glm"],
        "good holds the checkpoint model.safetensors, whose config.json an export would replace: .*good/export/glm",
    ),
    "export without a name": ([EXPORT, *GOOD[1:], "--output_path", "good"], "good is a directory; .* as good/glm"),
    "export into a file": (
        [EXPORT, *GOOD[1:], "--output_path", "one.json/glm"],
        "one.json is a file; output_path needs",
    ),
    "no adapter": ([*GOOD, "--lora_path", "none", TEXT], "none holds no LoRA adapter: neither lora_config.json nor"),
    "half an adapter": ([*GOOD, "--lora_path", "half adapter", TEXT], "half adapter/lora_model_state.pdparams "),
    "cut adapter": ([*GOOD, "--lora_path", "cut adapter", TEXT], "cut adapter/lora_model_state.pdparams .*"),
    "another rank": (
        [*GOOD, "--lora_path", "adapter of another rank", TEXT],
        r"adapter of another rank/lora_config.json gives .*q_proj the rank 4, and lora_A of the file beside it has 8",
    ),
    "training of a missing adapter": ([*TUNE_GOOD, "--lora_path", "good"], "good holds no LoRA adapter"),
    "rank 0": ([*TUNE_GOOD, "--lora", "True", "--r", "0"], "r is 0; the rank of a LoRA adapter must be at least 1"),
    "latin text": ([*GOOD, "--input_file", "latin"], r"latin, line 1: not UTF-8 \(byte 0xe9\); save the file as UTF-8"),
    "no data": ([*TUNE_TINY, "--data_path", "none.json"], "none.json does not exist; pass a JSON or JSON Lines file"),
    "empty data": ([*TUNE_TINY, "--data_path", "empty.json"], "nothing to read from empty.json: it holds no rows"),
    "no question": ([*TUNE_TINY, "--data_path", "no question.json"], "no question.json, line 2: field 'question' or "),
    "a number": (
        [*TUNE_TINY, "--data_path", "number.json"],
        "number.json, line 2: field 'context' is a number, not te",
    ),
    "cut data": ([*TUNE_TINY, "--data_path", "cut.json"], "cut.json, line 2: not valid JSON"),
    "latin data": ([*TUNE_TINY, "--data_path", "latin.json"], r"latin.json, line 3: not UTF-8 \(byte 0xe9\)"),
    "one row": ([*TUNE_GOOD, "--do_eval"], "one.json has 1 row, too few to train and to evaluate on"),
    "unknown task": ([*TUNE_TINY, "--task_name", "cmmlu"], "task_name 'cmmlu' is unknown; known tasks: dureader_qg"),
    "task without sample": ([*TUNE_TINY, "--task_name", "train_2M_CN"], "task train_2M_CN has no bundled sample at "),
    "infer: no folder": ([INFER, "--model_path", "none", TEXT], "none is not a directory; give the one that export_"),
    "infer: prefix": (
        [INFER, "--model_path", "cut export", "--model_prefix", "a", TEXT],
        r"cut export holds no whole export a.paddle: .*there \(--model_prefix\): glm \(paddle\)",
    ),
    "infer: half": (
        [INFER, "--model_path", "half export", TEXT],
        "half export/glm.pdiparams is missing, which glm.paddle.manifest.json names: copy the whole export, or export",
    ),
    "infer: cut weights": (
        [INFER, "--model_path", "cut export", TEXT],
        r"cut export/glm.pdiparams has 100,000 bytes, glm.paddle.manifest.json says 4,4\d\d,\d\d\d: copy the whole exp",
    ),
    "infer: garbage": (
        [INFER, "--model_path", "garbage graph", TEXT],
        "garbage graph/glm.json has the checksum [0-9a-f]{8}, its manifest says ",
    ),
    "infer: bad manifest": (
        [INFER, "--model_path", "bad manifest", TEXT],
        "bad manifest/glm.paddle.manifest.json is damaged",
    ),
}
CASES = [pytest.param(*case, 2, id=name) for name, case in USAGE.items()]
CASES += [pytest.param(*case, 1, id=name) for name, case in FAILURES.items()]


@pytest.mark.parametrize(("command", "pattern", "code"), CASES)
def test_bad_input_is_one_line(run, broken, command, pattern, code):
    before = {path: path.stat().st_mtime_ns for path in broken.rglob("*")}
    result = run(*command, cwd=broken)
    assert_error(result, code, pattern)
    assert {path: path.stat().st_mtime_ns for path in broken.rglob("*")} == before


def test_an_adapter_of_another_model(run, broken, adapter, tmp_path):
    """A model with half the layers, whole in itself."""
    args = ["--model_name_or_path", "fewer layers", "--from_scratch", "True", "--data_path", "one.json"]
    assert run(FINETUNE, *args, *TRAIN, "--output_dir", tmp_path / "small", cwd=broken).code == 0
    result = run(PREDICT, "--model_name_or_path", tmp_path / "small", "--lora_path", adapter, TEXT)
    assert_error(result, 1, r".*has, and the model lacks, .*layers\.2\..* the adapter belongs to another model")


@pytest.mark.parametrize("command", [[*TUNE_GOOD, "--r", "0", "--lora"], [*GOOD, "--lora_path", "none", TEXT]])
def test_debug_shows_the_traceback(run, broken, tmp_path, command):
    result = run(*command, "--output_dir" if command[0] == FINETUNE else "--src_length", 50, "--debug", cwd=broken)
    assert result.code == 1
    assert "Traceback (most recent call last)" in result.err
    assert "GLMError" in result.err
    assert result.error.startswith("error: ")


# a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a file system of so many kilobytes."""
    mounted = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount on this machine")
        if done.returncode:
            pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_while_training(run, broken, small_disk):
    """The second checkpoint does not fit; the first stays, and the run resumes from it once there is room."""
    disk = small_disk(22_000)
    steps = ["--max_steps", "2", "--save_steps", "1", "--output_dir", disk / "out"]
    result = run(*TUNE_GOOD, *steps, cwd=broken)
    assert_error(result, 1, r".*checkpoint-2.* was not written \(No space left on device\)")
    assert [path.name for path in (disk / "out").glob("*checkpoint*")] == ["checkpoint-1"]
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
    result = run(*TUNE_GOOD, *steps, cwd=broken)
    assert result.code == 0, result.err
    assert f"resuming from {disk / 'out' / 'checkpoint-1'}" in result.err


@pytest.mark.parametrize(
    ("format", "room"),
    [("paddle", 1000), ("paddle", 9000), ("onnx", 1000)],
    ids=["before it begins", "in the weights", "onnx"],
)
def test_full_disk_while_exporting(run, exported, broken, small_disk, format, room):
    """An earlier export stays as it was, and works."""
    disk = small_disk(5500 + room)
    shutil.copytree(exported[0], disk / "infer")
    before = snapshot(disk)
    result = run(EXPORT, *GOOD[1:], "--output_path", disk / "infer" / "glm", "--format", format, cwd=broken)
    assert_error(
        result, 1, rf"{disk}/infer/glm.{format} was not written \(No space left on device\): [48],\d\d\d,\d\d\d b"
    )
    assert snapshot(disk) == before
    assert run(INFER, "--model_path", disk / "infer", TEXT).code == 0


def test_full_disk_while_merging(run, broken, small_disk):
    disk = small_disk(3000)
    result = run(*GOOD, "--merge_tensor_parallel_path", disk / "merged", TEXT, cwd=broken)
    assert_error(result, 1, r".*model.safetensors was not written \(No space left on device\): 4,419,584 bytes needed")
    assert snapshot(disk) == {}

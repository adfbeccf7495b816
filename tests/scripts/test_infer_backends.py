"""infer_generation.py on every backend: the model's texts, whichever way; the default; streams and stop strings."""

import json
import re
import shutil
import sys

import pytest
from commands import SHORT, run_cold

TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"
DECODING = {
    "greedy": [],
    "beams": ["--num_beams", "4", "--min_tgt_length", "28", "--length_penalty", "1.2", "--no_repeat_ngram_size", "3"],
    "nucleus": ["--do_sample", "--temperature", "2", "--top_k", "20", "--top_p", "0.9", "--seed", "6"],
    "penalties": [
        *("--repetition_penalty", "1.3", "--presence_penalty", "0.5", "--frequency_penalty", "0.2", "--min_p", "0.05"),
        *("--do_sample", "--temperature", "1.5", "--seed", "8"),
    ],
}
needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")
BACKENDS = ["paddle", pytest.param("onnx_runtime", marks=needs_onnx_runtime)]


@pytest.fixture(scope="module")
def both(run, exported, model, tmp_path_factory):
    """A directory with one model in both formats."""
    directory = tmp_path_factory.mktemp("both") / "infer"
    shutil.copytree(exported[0], directory)
    result = run(
        *("export_generation_model.py", "--model_name_or_path", model),
        *("--output_path", directory / "glm", "--format", "onnx"),
    )
    assert result.code == 0, result.err
    return directory


@pytest.fixture(scope="module")
def standard(run, model, tmp_path_factory):
    """A directory with the model in standard ONNX operators."""
    directory = tmp_path_factory.mktemp("standard")
    where = ["--model_name_or_path", model, "--output_path", directory / "glm", "--format", "onnx", "--opset", "17"]
    result = run("export_generation_model.py", *where)
    assert result.code == 0, result.err
    return directory


@pytest.fixture(scope="module")
def infer(run, both):
    return lambda *more, **options: run("infer_generation.py", "--model_path", both, *SHORT, *more, **options)


@pytest.fixture(scope="module")
def wanted(run, model, sources, tmp_path_factory):
    """The texts that the model writes, as a file, by the way of decoding."""
    folder, found = tmp_path_factory.mktemp("wanted"), {}

    def predicted(way: str) -> bytes:
        if way not in found:
            texts = ["--input_file", sources, "--batch_size", "3", "--output_file", folder / way]
            where = ["--model_name_or_path", model, *SHORT, *DECODING[way]]
            assert run("predict_generation.py", *where, *texts).code == 0
            found[way] = (folder / way).read_bytes()
        return found[way]

    return predicted


@needs_onnx_runtime
@pytest.mark.parametrize("way", DECODING)
def test_onnx_runtime_writes_what_the_model_writes(infer, wanted, sources, tmp_path, way):
    texts = ["--input_file", sources, "--batch_size", "3", "--output_file", tmp_path / "texts"]
    result = infer("--backend", "onnx_runtime", *texts, *DECODING[way])
    assert result.code == 0, result.err
    assert (tmp_path / "texts").read_bytes() == wanted(way)


@needs_onnx_runtime
@pytest.mark.parametrize("way", DECODING)
def test_standard_operators_write_what_the_model_writes(run, standard, wanted, sources, tmp_path, way):
    where = ["--model_path", standard, *SHORT, *DECODING[way]]
    texts = ["--input_file", sources, "--batch_size", "3", "--output_file", tmp_path / "texts"]
    result = run("infer_generation.py", *where, *texts)
    assert result.code == 0, result.err
    assert (tmp_path / "texts").read_bytes() == wanted(way)
    assert result.err.startswith("backend: onnx_runtime on cpu (")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_is_the_text(infer, wanted, sources, tmp_path, backend):
    result = infer("--backend", backend, "--stream", "--input_file", sources, "--output_file", tmp_path / "texts")
    assert result.code == 0, result.err
    assert (tmp_path / "texts").read_bytes() == wanted("greedy")
    assert "\n  → " in result.out


@pytest.mark.parametrize("more", [[], ["--stream"]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_string_ends_a_text(infer, backend, more):
    whole = infer("--backend", backend, TEXT).texts[0]
    stop = whole[len(whole) // 2]
    result = infer("--backend", backend, "--stop", stop, "--stop", "never", *more, TEXT)
    assert result.code == 0, result.err
    assert result.texts == [whole[: whole.index(stop)]]


REPEATING = ["--repetition_penalty", "0.5", "--min_tgt_length", "30"]  # what was said becomes likelier


@pytest.mark.parametrize("more", [REPEATING, ["--do_sample", "--seed", "3", "--temperature", "0.4"]], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_prompt_lookup_writes_the_same_texts(infer, backend, more):
    """A text that repeats itself, so that there is something to guess; and it is said what came of it."""
    asked = ["--backend", backend, "--stream", *more, "--tgt_length", "40", TEXT + TEXT]
    plain, found = infer(*asked), infer("--prompt_lookup", "6", *asked)
    assert (found.code, found.out) == (0, plain.out), found.err
    assert "prompt lookup" not in plain.err
    told = re.search(r"; prompt lookup: ([\d,]+) of ([\d,]+) guessed tokens right, in ([\d,]+) call", found.err)
    assert told or more != REPEATING
    assert told is None or (int(told[3]) <= int(told[2]) and int(told[1]) <= int(told[2]))


@needs_onnx_runtime
def test_the_default_is_the_fastest_and_says_why(infer, exported, run):
    lines = infer("--backend", "paddle", TEXT), infer(TEXT)
    assert [result.err.splitlines()[0] for result in lines] == [
        "backend: paddle on cpu (asked for)",
        "backend: onnx_runtime on cpu (the fastest on a CPU)",
    ]
    assert lines[0].texts == lines[1].texts
    assert re.search(r"key/value cache [\d.]+ [kM]B$", lines[1].err, flags=re.MULTILINE)
    only = run("infer_generation.py", "--model_path", exported[0], *SHORT, TEXT)
    assert only.err.startswith("backend: paddle on cpu (--format onnx would be faster on a CPU)\n")


@needs_onnx_runtime
def test_onnx_runtime_imports_no_paddle(both, infer):
    """Started by a cold interpreter, which reports every module it imports."""
    result = run_cold("infer_generation.py", "--model_path", both, *SHORT, TEXT, interpreter=["-X", "importtime"])
    assert result.code == 0, result.err
    assert result.out == infer(TEXT).out
    imported = {line.rsplit("|", 1)[1].strip() for line in result.err.splitlines() if line.startswith("import time:")}
    assert {"glm.inference.exported", "onnxruntime"} <= imported
    assert not {name for name in imported if name.split(".")[0] in ("paddle", "paddlenlp", "onnx")}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cache_that_is_too_small(infer, backend):
    result = infer("--backend", backend, "--stream", "--kv_cache_size", "100KiB", TEXT)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: 1 slot(s) of ")
    assert "and the limit is 102,400" in result.err


def test_what_cannot_be(infer, exported, run):
    where = ["--model_path", exported[0], *SHORT]
    message = "error: backend onnx_runtime runs exports of --format onnx, and this one is paddle: export again"
    wrong = run("infer_generation.py", *where, "--backend", "onnx_runtime", TEXT)
    assert wrong.code == 1 and wrong.err.startswith(message) and wrong.err.count("\n") == 1
    asked = infer("--backend", "onnx_runtime", "--device", "npu", TEXT)
    assert asked.code == 2
    assert asked.err == "error: backend onnx_runtime runs on cpu or gpu, not on 'npu'\n"
    beams = infer("--stream", "--num_beams", "2", TEXT)
    assert beams.code == 2 and "use 1" in beams.err
    empty = infer("--stop", "", TEXT)
    assert empty.code == 2 and "empty stop string" in empty.err
    chat = infer("--chat", stdin="你好\n")
    assert chat.code == 2 and "holds no conversations" in chat.err


@pytest.mark.parametrize("name", ["glm.pdiparams", "glm.json", "cog-pretrain.model"])
def test_files_that_are_not_the_export(both, run, tmp_path, name):
    """One changed byte: of the weights, of the graph, of the tokenizer."""
    shutil.copytree(both, tmp_path / "infer")
    changed = bytearray((tmp_path / "infer" / name).read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "infer" / name).write_bytes(changed)
    where = ["--model_path", tmp_path / "infer", "--backend", "paddle", *SHORT]
    result = run("infer_generation.py", *where, TEXT)
    assert result.code == 1 and result.out == ""
    assert re.search(rf"^error: .*{name} has the checksum [0-9a-f]{{8}}, its manifest says", result.err, re.MULTILINE)


WRONG = {
    "cache of a loop": (
        ["--backend", "paddle", "--kv_cache_size", "1GiB"],
        2,
        "--kv_cache_size is for decoder step graphs",
    ),
    "guesses of a loop": (
        ["--backend", "paddle", "--prompt_lookup", "8"],
        2,
        "--prompt_lookup is for decoder step graphs, and paddle runs the full loop as one graph",
    ),
    "guesses of beams": (
        ["--prompt_lookup", "8", "--num_beams", "3"],
        2,
        "--prompt_lookup is for texts of one beam, and num_beams is 3: leave one of them out",
    ),
    "fewer guesses than none": (["--prompt_lookup", "-1"], 2, "--prompt_lookup is -1, and must be at least 0"),
    "number of a gpu": (["--backend", "onnx_runtime", "--device", "gpu:x"], 2, "device 'gpu:x' has a wrong number"),
    "number of a cpu": (["--backend", "onnx_runtime", "--device", "cpu:7"], 2, "device 'cpu:7' has a wrong number"),
    "threads": (["--cpu_threads", "-1"], 2, "cpu_threads is -1"),
    "too many threads": (["--cpu_threads", "3000000000"], 2, "cpu_threads is 3000000000, and must be between 1 and"),
    "seed": (["--do_sample", "--seed", str(1 << 63)], 2, "seed is 9223372036854775808, and must be below"),
    "penalty": (["--num_beams", "2", "--length_penalty", "nan"], 2, "length_penalty is nan"),
    "no room": (["--src_length", "3"], 2, "src_length is 3; three tokens of frame"),
    "no directory": (["--model_path", "nowhere", "--backend", "onnx_runtime"], 1, "nowhere is not a directory"),
}


@pytest.mark.parametrize(("flags", "code", "message"), WRONG.values(), ids=WRONG)
def test_wrong_flags_are_one_line(infer, flags, code, message):
    result = infer(*flags, TEXT)
    assert result.code == code
    assert result.err.splitlines()[-1].startswith(f"error: {message}"), result.err
    assert "Traceback" not in result.err


def test_a_file_that_the_manifest_does_not_name(both, run, tmp_path):
    """One that would be read all the same: other options of generation, another step graph."""
    shutil.copytree(both, tmp_path / "infer")
    where = ["infer_generation.py", "--model_path", tmp_path / "infer", "--backend", "paddle", *SHORT, TEXT]
    stray = tmp_path / "infer" / "generation_config.json"
    stray.write_text('{"do_sample": true}', encoding="utf-8")
    result = run(*where)
    assert result.code == 1 and "generation_config.json is not listed in glm.paddle.manifest.json" in result.err
    stray.unlink()
    path = tmp_path / "infer" / "glm.paddle.manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["files"]["glm.step.json"]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert run(*where).code == 0
    result = run(*where, "--stream")
    assert result.code == 1 and "glm.step.json is not in the export's manifest" in result.err


@pytest.mark.parametrize("length", ["900", "1022"])
def test_a_long_answer_takes_nothing_from_the_source(run, both, length):
    """Positions of GLM's source and answer are apart: the source keeps its 200 tokens."""
    where = ["--model_path", both, "--backend", "paddle", "--num_beams", "1", "--tgt_length", length]
    result = run("infer_generation.py", *where, "桥" * 150)
    assert result.code == 0, result.err
    assert "cut" not in result.err

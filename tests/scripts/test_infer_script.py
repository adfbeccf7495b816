"""infer_generation.py: the graph generates what the model generates, and needs neither model nor PaddleNLP."""

import re
import shutil

import pytest
from commands import SHORT, run_cold

TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"
DECODING = {
    "greedy": [],
    "long": ["--min_tgt_length", "28"],
    "no repeats": ["--min_tgt_length", "28", "--no_repeat_ngram_size", "2"],
    "beams": ["--num_beams", "4", "--min_tgt_length", "28", "--length_penalty", "1.2", "--no_repeat_ngram_size", "3"],
    "sampling": ["--do_sample", "--temperature", "2", "--seed", "5"],
    "nucleus": ["--do_sample", "--temperature", "2", "--top_k", "20", "--top_p", "0.9", "--seed", "6"],
    "sampling with beams": ["--do_sample", "--num_beams", "3", "--temperature", "2", "--seed", "7"],
    "penalties": [
        *("--repetition_penalty", "1.3", "--presence_penalty", "0.5", "--frequency_penalty", "0.2", "--min_p", "0.05"),
        *("--do_sample", "--temperature", "1.5", "--seed", "8"),
    ],
}
FAST = {"greedy", "beams", "nucleus", "penalties"}


@pytest.fixture(scope="module")
def infer(run, exported):
    def inferred(*arguments, **options):
        result = run("infer_generation.py", "--model_path", exported[0], *SHORT, *arguments, **options)
        assert result.code == 0, result.err
        return result

    return inferred


def test_the_export_says_what_it_wrote(exported):
    directory, result = exported
    lines = result.out.splitlines()
    assert re.fullmatch(rf"exported 1,104,896 parameters \(float32\) to {directory}/glm\.\* in [\d.]+ s", lines[0])
    assert re.fullmatch(r"  glm\.json, .*glm\.pdiparams.*: \d.\d MB, 32\.\d\d bits per weight", lines[1])
    assert lines[2:] == [f'next: python infer_generation.py --model_path {directory} --model_prefix glm "…"']
    assert result.err == ""
    names = {path.name for path in directory.iterdir()}
    assert names >= {"glm.json", "glm.pdiparams", "glm.paddle.manifest.json", "cog-pretrain.model", "config.json"}
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in DECODING])
def test_the_graph_generates_what_the_model_generates(run, infer, model, sources, tmp_path, name):
    """The texts that both scripts write, byte by byte."""
    texts = ["--input_file", sources, "--batch_size", "3", *DECODING[name]]
    inferred, predicted = tmp_path / "graph.txt", tmp_path / "model.txt"
    infer(*texts, "--output_file", inferred)
    where = ["--model_name_or_path", model, *SHORT, "--output_file", predicted]
    assert run("predict_generation.py", *where, *texts).code == 0
    assert len(inferred.read_text(encoding="utf-8").splitlines()) == 8
    assert inferred.read_bytes() == predicted.read_bytes()


def test_it_imports_neither_paddlenlp_nor_the_model(exported, infer):
    """Started by a cold interpreter, which reports every module it imports."""
    interpreter = ["-X", "importtime"]
    where = ["--model_path", exported[0], "--model_prefix", "glm", *SHORT]
    result = run_cold("infer_generation.py", *where, TEXT, interpreter=interpreter)
    assert result.code == 0, result.err
    assert result.out == infer(TEXT).out
    imported = {line.rsplit("|", 1)[1].strip() for line in result.err.splitlines() if line.startswith("import time:")}
    assert {"glm.inference.exported", "paddle"} <= imported
    assert not {name for name in imported if name.split(".")[0] == "paddlenlp"}
    assert (
        not {
            "glm.api.causal_lm",
            "glm.model.network",
            "glm.generation.search",
            "glm.training.trainer",
            "glm.model.lora",
            "glm.config.glm_config",
        }
        & imported
    )
    rest = [line for line in result.err.splitlines() if not line.startswith("import time:")]
    assert [line for line in rest if "tokens/s" not in line] == [
        "backend: paddle on cpu (--format onnx would be faster on a CPU)"
    ]


def test_directory_and_texts_as_predict_takes_them(run, infer, exported, sources):
    texts = infer("--input_file", sources).texts
    lines = sources.read_text(encoding="utf-8")
    assert infer("-", stdin=lines).texts == texts
    assert infer(*lines.splitlines(), "--batch_size", "8").texts == texts
    assert run("infer_generation.py", "--model_dir", exported[0], *SHORT, *lines.splitlines()).texts == texts


def test_max_length_bounds_source_and_text_together(infer):
    result = infer("--max_length", "52", TEXT)
    assert "1 text(s) cut to src_length 20" in result.err
    assert result.texts == infer("--src_length", "20", TEXT).texts
    assert "cut" not in infer("--max_length", "96", TEXT).err


def test_cpu_threads_do_not_change_texts(infer):
    assert infer("--cpu_threads", "1", TEXT).texts == infer("--cpu_threads", "2", TEXT).texts


def test_two_exports_share_a_directory(run, exported, adapter, model, sources, tmp_path):
    """With the adapter merged in: the graph generates what predict does with the adapter."""
    shutil.copytree(exported[0], tmp_path / "infer")
    result = run(
        *("export_generation_model.py", "--model_name_or_path", model),
        *("--lora_path", adapter, "--output_path", tmp_path / "infer" / "adapted"),
    )
    assert result.code == 0, result.err
    where = ["--model_path", tmp_path / "infer", *SHORT, "--input_file", sources]
    adapted = run("infer_generation.py", *where, "--model_prefix", "adapted").texts
    plain = run("infer_generation.py", *where, "--model_prefix", "glm").texts
    predict = ["--model_name_or_path", model, *SHORT, "--input_file", sources]
    assert adapted == run("predict_generation.py", *predict, "--lora_path", adapter).texts
    assert plain == run("predict_generation.py", *predict).texts
    assert adapted != plain

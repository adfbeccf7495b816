"""export_generation_model.py --format onnx: what a user types, what is written, and what the graph then computes."""

import re
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from commands import run_cold

from glm import GLMForCausalLM
from glm.api.loading import load_processor
from glm.encoding.batches import Positions
from glm.export.files import exported_formats, read_manifest, start_check
from glm.model.lora import load_lora

SCRIPT = "export_generation_model.py"
TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"
PRESETS = ("chatglm-6b-tiny", "glm-4-9b-0414-tiny", "glm-4.5-tiny")
# Flags → kind of weights, block size, symmetric, and how far logits may be from the model's (relative).
KINDS = {
    "fp32": ([], ("fp32", None, None), 1e-5),
    "int8": (["--weights", "int8", "--block_size", "64"], ("int8", 64, True), 0.05),
    "int4, small": (["--weights", "int4", "--head_bits", "4"], ("int4", 128, True), 0.6),
    "int4": (["--weights", "int4", "--asymmetric"], ("int4", 128, False), 0.5),
}


def export(run, source, prefix: Path, *flags):
    result = run(SCRIPT, "--model_name_or_path", source, "--output_path", prefix, "--format", "onnx", *flags)
    assert result.code == 0, result.err
    start_check(prefix.parent, read_manifest(prefix.parent, prefix.name, "onnx")).result()
    return result


def prompt(processor) -> tuple[list[int], np.ndarray, int]:
    """Ids, positions [P, T] and how many ids are read in both directions."""
    ids, positions = processor.text_prompt(TEXT), processor.positions
    assert isinstance(positions, Positions)
    prefix = positions.prompt_prefix(ids)
    return ids, positions.of(ids, prefix), prefix


def graph_logits(prefix: Path, processor) -> np.ndarray:
    """[V], behind the prompt."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    from glm.runtime.onnx_step import OnnxStepRuntime

    ids, positions, count = prompt(processor)
    runtime = OnnxStepRuntime(prefix.with_name(f"{prefix.name}.onnx"), len(ids), threads=1)
    if not runtime.bidirectional:
        count = 0
    return runtime.prefill(runtime.new_cache(1, len(ids)), 0, ids, positions, 0, count)


def model_logits(model, processor) -> np.ndarray:
    ids, positions, prefix = prompt(processor)
    arguments = [[ids], [[1] * len(ids)], positions[None], [prefix]]
    with paddle.no_grad():
        return model(*(paddle.to_tensor(np.array(each, dtype="int64")) for each in arguments)).numpy()[0, -1]


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_preset(run, tmp_path, preset, kind):
    flags, stored, tolerance = KINDS[kind]
    result = export(run, preset, tmp_path / "infer" / "glm", *flags)
    manifest, processor = read_manifest(tmp_path / "infer", "glm", "onnx"), load_processor(tmp_path / "infer")
    assert (manifest.weights, manifest.block_size, manifest.symmetric) == stored
    assert (manifest.source, manifest.dtype) == (preset, "float32")
    lines = result.out.splitlines()
    assert lines[0].startswith(
        f"exported {manifest.parameters:,} parameters ({'float32' if not flags else manifest.weights}"
    )
    bits = 8 * manifest.files["glm.onnx.data"]["size"] / manifest.parameters
    assert re.fullmatch(rf"  glm\.onnx, glm\.onnx\.data: [\d.]+ [kM]B, {bits:.2f} bits per weight", lines[1])
    assert lines[2] == f'next: python infer_generation.py --model_path {tmp_path}/infer --model_prefix glm "…"'
    model = GLMForCausalLM.from_pretrained(preset)
    model.eval()
    far = distance(graph_logits(tmp_path / "infer" / "glm", processor), model_logits(model, processor))
    assert (far < tolerance) and (kind == "fp32" or far > 1e-4)


@pytest.mark.parametrize(("kind", "bits"), [("fp32", 32), ("int8", 8)])
def test_standard_operators(run, tmp_path, kind, bits):
    result = export(run, PRESETS[1], tmp_path / "glm", "--opset", "17", "--weights", kind)
    manifest = read_manifest(tmp_path, "glm", "onnx")
    assert (manifest.opset, manifest.weights, manifest.block_size) == (17, kind, None)
    named = "float32" if kind == "fp32" else kind
    lines = result.out.splitlines()
    assert lines[0].startswith(f"exported {manifest.parameters:,} parameters ({named}, opset 17) to ")
    assert bits - 1 < float(re.search(r"([\d.]+) bits per weight", lines[1])[1]) < bits + 1


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--opset", "17"], "--opset 17 is of --format onnx, and this is --format paddle: add --format onnx, or leave"),
        (["--format", "onnx", "--opset", "13"], "opset 13 is not offered: choose 17, or leave it out"),
        (
            ["--format", "onnx", "--opset", "17", "--weights", "int4"],
            "weights 'int4' are ONNX Runtime's own, and opset",
        ),
        (
            ["--format", "onnx", "--opset", "17", "--weights", "int8", "--block_size", "32"],
            "weights of opset 17 have no",
        ),
        (
            ["--format", "onnx", "--opset", "17", "--asymmetric"],
            "weights of opset 17 have no blocks, but a scale a col",
        ),
    ],
)
def test_what_the_form_does_not_have_is_one_line(run, tmp_path, flags, line):
    result = run(SCRIPT, "--model_name_or_path", PRESETS[1], "--output_path", tmp_path / "glm", *flags)
    assert (result.code, result.out) == (2, "") and result.err.startswith(f"error: {line}")
    assert result.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_an_adapter_is_merged(run, model, adapter, tmp_path):
    export(run, model, tmp_path / "glm", "--lora_path", adapter)
    assert read_manifest(tmp_path, "glm", "onnx").source == f"{model} + {adapter}"
    base, processor = GLMForCausalLM.from_pretrained(model), load_processor(model)
    base.eval()
    plain = model_logits(base, processor)
    lora = load_lora(base, adapter)
    lora.eval()
    unmerged, found = model_logits(lora.model, processor), graph_logits(tmp_path / "glm", load_processor(tmp_path))
    assert distance(found, unmerged) < 1e-5
    assert distance(found, plain) > 1e-2


def test_both_formats_in_one_directory(run, exported, model, sources, tmp_path):
    """Each with its manifest, and the graph of the other format runs as before."""
    shutil.copytree(exported[0], tmp_path / "infer")
    export(run, model, tmp_path / "infer" / "glm", "--weights", "int4")
    assert exported_formats(tmp_path / "infer", "glm") == ["paddle", "onnx"]
    texts = [
        run("infer_generation.py", "--model_path", folder, "--backend", "paddle", "--input_file", sources).texts
        for folder in (exported[0], tmp_path / "infer")
    ]
    assert texts[0] == texts[1] != []


def test_another_model_does_not_fit_into_the_directory(run, exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "infer")
    before = {path: path.read_bytes() for path in (tmp_path / "infer").iterdir()}
    where = ["--model_name_or_path", "chatglm-6b-tiny", "--output_path", tmp_path / "infer" / "other"]
    result = run(SCRIPT, *where, "--format", "onnx")
    assert result.code == 1
    assert re.match(
        r"error: .*/infer/\S+ has the checksum .* in glm.paddle.manifest.json and .* another directory$", result.error
    )
    assert {path: path.read_bytes() for path in (tmp_path / "infer").iterdir()} == before


def test_streaming_imports_neither_paddle_nor_paddlenlp(model, tmp_path):
    where = ["--model_name_or_path", model, "--output_path", tmp_path / "glm", "--format", "onnx"]
    result = run_cold(SCRIPT, *where, interpreter=["-X", "importtime"])
    assert result.code == 0, result.err
    imported = {line.rsplit("|", 1)[1].strip() for line in result.err.splitlines() if line.startswith("import time:")}
    assert {"onnx", "glm.api.loading"} <= imported
    assert not {"paddle", "paddlenlp", "onnxruntime", "glm.api.causal_lm", "glm.model.network"} & imported


def test_help_says_what_to_choose(run):
    text = run(SCRIPT, "--help").out
    for words in ("--format onnx --weights int4", "formats:", "weights of an onnx export", "--block_size", "manifest"):
        assert words in text

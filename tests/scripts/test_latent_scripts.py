"""GLM-4.7-Flash through the command line: tuned, merged, predicted, exported in every form and run from there."""

import json
import sys

import pytest
from commands import GREEDY, SHORT
from family_models import write_family_model

from glm.export.files import read_manifest

needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")

TINY = "glm-4.7-flash-tiny"
TEXTS = ["你好", "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"]


def predicted(run, *flags) -> list[str]:
    result = run("predict_generation.py", *flags, *SHORT, *GREEDY, *TEXTS)
    assert result.code == 0, result.err
    assert len(result.texts) == len(TEXTS)
    return result.texts


def tuned(run, output, *flags) -> None:
    arguments = ["--model_name_or_path", TINY, "--output_dir", output, "--task_name", "alpaca", "--do_train"]
    arguments += [
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--learning_rate",
        "1e-2",
        "--device",
        "cpu",
    ]
    result = run("finetune_instruction_generation.py", *arguments, "--src_length", "96", "--tgt_length", "32", *flags)
    assert result.code == 0, result.err


def test_an_adapter_beside_the_model_and_merged(run, tmp_path):
    """The merged model writes what model and adapter write: the adapter of `kv_b_proj` is in the absorbed form, too."""
    tuned(run, tmp_path / "adapter", "--lora", "True", "--lora_targets", "all")
    with_adapter = ["--model_name_or_path", TINY, "--lora_path", tmp_path / "adapter"]
    beside = predicted(run, *with_adapter)
    merged = ["--merge_tensor_parallel_path", tmp_path / "merged"]
    assert predicted(run, *with_adapter, *merged) == beside
    assert predicted(run, "--model_name_or_path", tmp_path / "merged") == beside
    config = json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["head_dim"], config["mlp_layer_types"]) == (
        "glm4_moe_lite",
        4,
        ["dense", "sparse"],
    )


def test_all_weights(run, tmp_path):
    tuned(run, tmp_path / "tuned", "--recompute", "True")
    predicted(run, "--model_name_or_path", tmp_path / "tuned")


FORMS = {
    "paddle": ["--format", "paddle"],
    "onnx": ["--format", "onnx"],
    "standard": ["--format", "onnx", "--opset", "17"],
}
EXACT = ["paddle", *(pytest.param(form, marks=needs_onnx_runtime) for form in ("onnx", "standard"))]
BEAMS = ["--num_beams", "3", "--batch_size", "2"]


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """Widths that all differ."""
    return write_family_model(tmp_path_factory.mktemp("latent"), "glm4-moe-lite")


def exported(run, model, folder, *flags):
    result = run("export_generation_model.py", "--model_name_or_path", model, "--output_path", folder / "glm", *flags)
    assert result.code == 0, result.err
    return folder


def inferred(run, folder, *flags) -> list[str]:
    result = run("infer_generation.py", "--model_path", folder, *SHORT, *flags, *TEXTS)
    assert result.code == 0, result.err
    return result.texts


@pytest.mark.parametrize("form", EXACT)
def test_exports_write_the_texts_of_the_model(run, random_model, tmp_path, form):
    folder = exported(run, random_model, tmp_path, *FORMS[form])
    for way in (GREEDY, BEAMS):
        wanted = run("predict_generation.py", "--model_name_or_path", random_model, *SHORT, *way, *TEXTS)
        assert wanted.code == 0 and wanted.texts[0] != wanted.texts[1], wanted.err
        assert inferred(run, folder, *way) == wanted.texts


@needs_onnx_runtime
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_quantized_exports(run, random_model, tmp_path, weights):
    folder = exported(run, random_model, tmp_path, "--format", "onnx", "--weights", weights, "--block_size", "32")
    manifest = read_manifest(folder, "glm", "onnx")
    assert (manifest.weights, manifest.opset, manifest.gives_columns) == (weights, None, True)
    assert len(inferred(run, folder, *GREEDY)) == 2

"""A model with experts, through the command line: exported in every form, and run where no model is built."""

import sys

import pytest
from commands import GREEDY, SHORT
from family_models import write_family_model

from glm.export.files import read_manifest

SCRIPT, TEXTS = "export_generation_model.py", ["你好", "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"]
needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")
FORMS = {
    "paddle": ["--format", "paddle"],
    "onnx": ["--format", "onnx"],
    "standard": ["--format", "onnx", "--opset", "17"],
}
EXACT = ["paddle", *(pytest.param(form, marks=needs_onnx_runtime) for form in ("onnx", "standard"))]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two groups of experts, and norms of queries and keys; a width that no block divides."""
    folder = tmp_path_factory.mktemp("sparse")
    return write_family_model(folder, "glm4-moe", n_group=2, topk_group=1)


@pytest.fixture(scope="module")
def wanted(run, model) -> list[str]:
    result = run("predict_generation.py", "--model_name_or_path", model, *SHORT, *GREEDY, *TEXTS)
    assert result.code == 0, result.err
    return result.texts


def exported(run, model, folder, *flags):
    result = run(SCRIPT, "--model_name_or_path", model, "--output_path", folder / "glm", *flags)
    assert result.code == 0, result.err
    return folder


@pytest.mark.parametrize("form", EXACT)
def test_texts_of_the_model(run, model, wanted, tmp_path, form):
    folder = exported(run, model, tmp_path, *FORMS[form])
    assert len(wanted) == 2 and wanted[0] != wanted[1]
    for way in ([], ["--stream"]) if form == "paddle" else ([],):
        result = run("infer_generation.py", "--model_path", folder, *SHORT, *GREEDY, *way, *TEXTS)
        assert result.code == 0, result.err
        assert (result.out if way else result.texts) and all(text in result.out for text in wanted)


@needs_onnx_runtime
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_quantized_experts(run, model, tmp_path, weights):
    folder = exported(run, model, tmp_path, "--format", "onnx", "--weights", weights, "--block_size", "32")
    assert read_manifest(folder, "glm", "onnx").weights == weights
    result = run("infer_generation.py", "--model_path", folder, *SHORT, *GREEDY, *TEXTS)
    assert result.code == 0 and len(result.texts) == 2, result.err

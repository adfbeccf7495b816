"""The same tokens where graphs give new keys and values back: Paddle Inference's, and those of standard operators
(--opset 17) in ONNX Runtime and FastDeploy 1.0.7.
"""

import pytest
from cpp_exports import NAMES, Export, write_model
from test_cpp_tokens import WAYS, prompts_of, wanted

pytestmark = pytest.mark.slow  # Paddle starts some dozens of times

SHOWN = [way for way in WAYS if way.words.split(" ")[0] in ("", "--num_beams") or "--top_p" in way.words]
# Backend of C++ → that of Python for the same export: FastDeploy's package is for another Python.
BACKENDS = {"paddle": "paddle", "onnx_runtime": "onnx_runtime", "fastdeploy": "onnx_runtime"}


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tmp_path_factory):
    """Exports of one model in the two forms."""
    from write_onnx import write_export

    from glm.api.loading import load_merged_model, load_processor
    from glm.export.paddle_graphs import export_directory

    folder = tmp_path_factory.mktemp(request.param)
    model = write_model(request.param, folder / "model")
    write_export(model, folder / "onnx", opset=17)
    export_directory(
        load_merged_model(str(model), None, None),
        load_processor(str(model)),
        folder / "paddle" / "glm",
        request.param,
    )
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens(folder, programs, backend):
    if backend != "onnx_runtime" and not (programs / f"libglm_{backend}.so").is_file():
        pytest.skip(f"no module of {backend} was built: its library is not there (make cpp says which)")
    place = folder / ("paddle" if backend == "paddle" else "onnx")
    generator = Export(place, programs, BACKENDS[backend]).generator()
    prompts, export = prompts_of(generator), Export(place, programs, backend)
    assert len(SHOWN) > 4
    for way in SHOWN:
        found = export.ids(prompts, *way.words.split(), "--tgt_length", 12, "--batch_size", 3)
        assert found == wanted(generator, prompts, 3, **way.options), way.words


def test_fastdeploy_knows_standard_operators_alone(folder, programs):
    from write_onnx import write_export

    write_export(folder / "model", folder / "contrib")
    run = Export(folder / "contrib", programs, "fastdeploy").infer("x", code=1)
    assert "knows standard operators alone" in run.stderr and "--opset 17" in run.stderr

"""Weights on their way from a checkpoint into a graph: every format on disk, and LoRA adapters merged on the way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from family_models import FAMILY, write_family_model
from onnx_step import decode, dynamic, random_rows
from tiny_glm import relative_error, tiny_model

from glm import GLMForCausalLM
from glm.api.loading import stream_weights
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.config.config_json import config_json
from glm.config.fields import PlainConfig
from glm.config.glm_config import GLMConfig
from glm.config.presets import PRESETS
from glm.errors import GLMError
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.model.lora import add_lora, merge_adapter

FIXTURES = Path(__file__).resolve().parents[2] / "parity" / "fixtures"
ADAPTERS = Path(__file__).resolve().parents[2] / "adapters" / "fixtures"
FAMILIES = ("glm", *FAMILY)
HF_FILES = ("chatglm-6b", "glm-g2-bias-rope1", "glm4-g4-bias-rope500")  # that transformers or its remote code wrote


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Directories of this project's own format, by family."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model(seed=2, max_position_embeddings=64).save_pretrained(folder / "glm")
    for family in FAMILY:
        write_family_model(folder / family, family)
    return {family: folder / family for family in FAMILIES}


def streamed(source: Path, target: Path, lora: Path | None = None, kind: str = "fp32") -> PlainConfig:
    config, tensors = stream_weights(source, lora)
    write_step_graph(config, tensors, weights_of(kind), target)
    return config


def texts(config):
    return random_rows(config, [7, 4]), np.random.default_rng(5).integers(8, config.vocab_size, (2, 2))


def assert_same_logits(prefix: Path, model, tolerance: float = 1e-5) -> None:
    rows, tokens = texts(model.config)
    found = decode(prefix.with_name(f"{prefix.name}.onnx"), model.config, rows, tokens)
    for ours, theirs in zip(found, dynamic(model, rows, tokens), strict=True):
        assert relative_error(ours, theirs) < tolerance


def opened(directory: Path) -> GLMForCausalLM:
    model = GLMForCausalLM.from_pretrained(directory)
    model.eval()
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_however_the_weights_lie_on_disk(models, family, tmp_path):
    """Shards of Hugging Face's layout, and files of two tensor-parallel ranks: byte by byte the same graph."""
    source = models[family]
    forms = {"hf": {}, "paddle": {"degree": 2}} | ({"remote": {}} if family == "glm4-remote" else {})
    streamed(source, tmp_path / "own")
    for form, options in forms.items():
        convert_checkpoint(Conversion(source, tmp_path / form, form, max_shard_size=20_000, **options))
        assert len([path for path in (tmp_path / form).iterdir() if path.suffix != ".json"]) > 1
        streamed(tmp_path / form, tmp_path / f"from-{form}")
        assert (tmp_path / f"from-{form}.onnx.data").read_bytes() == (tmp_path / "own.onnx.data").read_bytes()
    assert_same_logits(tmp_path / "own", opened(source))


@pytest.mark.parametrize("name", HF_FILES)
def test_files_of_transformers(name, tmp_path):
    streamed(FIXTURES / name, tmp_path / "m")
    assert_same_logits(tmp_path / "m", opened(FIXTURES / name))


@pytest.mark.parametrize("peft", [False, True], ids=["paddlenlp", "peft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter(models, family, peft, tmp_path):
    """The graph gives the logits of the model with the adapter beside its weights."""
    lora = add_lora(opened(models[family]), r=3, alpha=5, targets="all")
    draw = np.random.default_rng(3)
    for name, parameter in lora.named_parameters():
        if ".lora_" in name:
            parameter.set_value(draw.standard_normal(parameter.shape).astype("float32") * 0.2)
    lora.eval()
    lora.save_pretrained(tmp_path / "adapter", peft=peft)
    streamed(models[family], tmp_path / "merged", tmp_path / "adapter")
    assert_same_logits(tmp_path / "merged", lora.model)
    with pytest.raises(AssertionError):  # the adapter does something
        assert_same_logits(tmp_path / "merged", opened(models[family]), 1e-2)


def test_an_adapter_of_a_fused_layer_is_merged_in_float32(models, tmp_path):
    """On a bfloat16 checkpoint, where a rounded sum would lose most of a small adapter."""
    source, adapter = tmp_path / "half", tmp_path / "adapter"
    convert_checkpoint(Conversion(models["chatglm"], source, "hf", dtype="bfloat16"))
    lora = add_lora(opened(models["chatglm"]), r=2)
    for name, parameter in lora.named_parameters():
        if name.endswith("lora_B"):
            parameter.set_value(np.full(parameter.shape, 1e-4, dtype="float32"))
    lora.save_pretrained(adapter)
    plain, summed = (dict(stream_weights(source, lora_path)[1]) for lora_path in (None, adapter))
    name = "model.layers.1.self_attn.q_proj"
    state = lora.model.state_dict()
    wanted = 2 * state[f"{name}.lora_A"].numpy() @ state[f"{name}.lora_B"].numpy()
    difference = summed[f"{name}.weight"] - plain[f"{name}.weight"].astype("float32")
    assert plain[f"{name}.weight"].dtype != summed[f"{name}.weight"].dtype == np.float32
    assert 0 < np.abs(wanted).max() < 2e-3
    assert np.allclose(difference, wanted, atol=1e-7)
    assert plain["model.norm.weight"].dtype == summed["model.norm.weight"].dtype


@pytest.mark.parametrize("case", ["tied__lm_head", "tied__embed_tokens", "tied__both", "tied__modules_to_save"])
def test_an_adapter_that_gives_a_tied_model_a_head_of_its_own(case, tmp_path):
    base, adapter = ADAPTERS / "bases" / "glm4-tied", ADAPTERS / "read" / case
    config = streamed(base, tmp_path / "merged", adapter)
    assert not config.tie_word_embeddings and PlainConfig.from_pretrained(str(base)).tie_word_embeddings
    model = merge_adapter(opened(base), adapter)
    assert_same_logits(tmp_path / "merged", model)
    model.save_pretrained(tmp_path / "saved")
    assert_same_logits(tmp_path / "merged", opened(tmp_path / "saved"))


def test_an_adapter_of_another_model_is_refused_before_anything_is_read(models, tmp_path):
    add_lora(opened(models["glm"]), r=2).save_pretrained(tmp_path / "adapter")
    with pytest.raises(GLMError, match=r"the model needs .*: the adapter belongs to another model") as caught:
        stream_weights(models["glm4-0414"], tmp_path / "adapter")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_plain_configuration_is_that_of_the_model(name):
    ours, theirs = PlainConfig.preset(name), GLMConfig.preset(name)
    assert config_json(ours) == config_json(theirs)
    assert all(getattr(theirs, field) == value for field, value in vars(ours).items())


def test_neither_paddle_nor_paddlenlp_nor_a_runtime_is_imported(models, tmp_path):
    code = (
        "import sys; from pathlib import Path; from test_stream_weights_code import run; run(*sys.argv[1:]);"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'paddle', 'paddlenlp', 'torch', 'onnxruntime'}))"
    )
    (tmp_path / "test_stream_weights_code.py").write_text(
        "from pathlib import Path\n"
        "from glm.api.loading import load_processor, stream_weights\n"
        "from glm.export.writing import write_side_files\n"
        "from glm.export.onnx.weights import weights_of\n"
        "from glm.export.onnx.write import export_step_graph\n"
        "def run(source, target):\n"
        "    config, tensors = stream_weights(source)\n"
        "    processor = load_processor(source)\n"
        "    text = lambda folder: write_side_files(config, processor, folder)\n"
        "    export_step_graph(config, tensors, weights_of('int4'), Path(target), source=source, text=text)\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-c", code, str(models["glm4-0414"]), str(tmp_path / "infer" / "glm")]
    done = subprocess.run(command, env={"PYTHONPATH": f"{root}:{tmp_path}"}, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
    manifest = json.loads((tmp_path / "infer" / "glm.onnx.manifest.json").read_text())
    assert manifest["source"] == str(models["glm4-0414"])

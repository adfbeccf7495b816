"""Adapters at the command line: DoRA and its like, several of them, those that are refused, and what training does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import SHORT
from test_finetune_scripts import ONCE, tune  # noqa: F401  (a fixture)
from test_script_errors import assert_error

import glm
from glm.model.lora import load_lora

PREDICT, EXPORT = "predict_generation.py", "export_generation_model.py"
PEFT_FILES = ["adapter_config.json", "adapter_model.safetensors"]


def with_settings(source: Path, target: Path, **settings) -> Path:
    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def alora(adapter, tmp_path_factory) -> Path:
    return with_settings(adapter / "peft", tmp_path_factory.mktemp("alora") / "alora", alora_invocation_tokens=[5])


def test_the_adapter_that_training_writes_for_peft_is_the_one_it_trained(model, adapter):
    ours, theirs = (load_lora(glm.GLMForCausalLM.from_pretrained(model), path) for path in (adapter, adapter / "peft"))
    for name, array in ours.adapter_state().items():
        assert np.array_equal(array, theirs.adapter_state()[name]), name
    assert sorted(path.name for path in (adapter / "peft").iterdir()) == PEFT_FILES


def test_predictions_and_exports_with_dora(run, model, adapter, dora, sources, tmp_path):
    """The model, its merged copy and its exported graph answer alike, and not as with plain LoRA."""
    merged = tmp_path / "merged"
    base = ["--model_name_or_path", model, *SHORT]
    result = run(PREDICT, *base, "--lora_path", dora, "--merge_tensor_parallel_path", merged, "--input_file", sources)
    assert result.code == 0, result.err
    assert run(PREDICT, *base, "--lora_path", adapter, "--input_file", sources).texts != result.texts
    assert run(PREDICT, "--model_name_or_path", merged, *SHORT, "--input_file", sources).texts == result.texts
    export = ["--lora_path", dora, "--format", "onnx", "--output_path", tmp_path / "infer" / "glm"]
    assert run(EXPORT, "--model_name_or_path", model, *export).code == 0
    answers = run("infer_generation.py", "--model_path", tmp_path / "infer", *SHORT, "--input_file", sources)
    assert answers.texts == result.texts


def test_two_adapters_act_in_the_order_given(run, model, adapter, dora, sources, tmp_path):
    def texts(*paths):
        flags = [word for path in paths for word in ("--lora_path", path)]
        result = run(PREDICT, "--model_name_or_path", model, *SHORT, *flags, "--input_file", sources)
        assert (result.code, "is given" in result.err) == (0, False), result.err
        return result.texts

    both = texts(adapter, dora)
    assert both not in (texts(adapter), texts(dora))
    prompts = sources.read_text(encoding="utf-8").splitlines()
    generate = glm.pipeline("text-generation", str(model), lora_path=[adapter, dora])
    found = [row["generated_text"] for row in generate(prompts, max_new_tokens=32, num_beams=1)]
    alone = glm.pipeline("text-generation", str(model), lora_path=adapter)
    assert found != [row["generated_text"] for row in alone(prompts, max_new_tokens=32, num_beams=1)]
    arguments = tmp_path / "run.json"
    arguments.write_text(json.dumps({"lora_path": [str(adapter), str(dora)], "input_file": str(sources)}))
    assert run(PREDICT, arguments, "--model_name_or_path", model, *SHORT).texts == both


def test_two_adapters_in_an_export(run, model, adapter, dora, sources, tmp_path):
    flags = ["--lora_path", adapter, "--lora_path", dora]
    for form in ("onnx", "paddle"):
        path = ["--format", form, "--output_path", tmp_path / form / "glm"]
        assert run(EXPORT, "--model_name_or_path", model, *flags, *path).code == 0
        manifest = json.loads((tmp_path / form / f"glm.{form}.manifest.json").read_text())
        assert manifest["source"] == f"{model} + {adapter} + {dora}"
    wanted = run(PREDICT, "--model_name_or_path", model, *SHORT, *flags, "--input_file", sources).texts
    for form in ("onnx", "paddle"):
        answers = run("infer_generation.py", "--model_path", tmp_path / form, *SHORT, "--input_file", sources)
        assert answers.texts == wanted, form


def test_an_adapter_that_cannot_be_merged_is_refused_by_its_setting(run, model, alora, tmp_path):
    pattern = (
        r".*adapter_config.json sets alora_invocation_tokens, which is not supported: it acts from these tokens on"
    )
    base = ["--model_name_or_path", model, "--lora_path", alora]
    assert_error(run(PREDICT, *base, "云"), 1, pattern)
    for form in ("onnx", "paddle"):
        assert_error(run(EXPORT, *base, "--format", form, "--output_path", tmp_path / "infer" / "glm"), 1, pattern)
    assert not (tmp_path / "infer").exists()


def test_a_repeated_flag_is_said(run, model):
    result = run(
        PREDICT, "--model_name_or_path", model, *SHORT, "--top_p", "0.5", "--top_p", "0.9", "--do_sample", "云"
    )
    assert (result.code, result.err.splitlines()[0]) == (0, "--top_p is given 2 times: --top_p 0.9 counts")


# training


def test_training_does_not_continue_from_dora(tune, model, dora, tmp_path):  # noqa: F811
    result = tune(*ONCE, "--lora_path", dora, model=model)
    assert_error(
        result, 1, r".*adapter_config.json: fine-tuning cannot continue from an adapter with use_dora: merge it wi"
    )
    assert not list((tmp_path / "out").glob("*adapter*"))


def test_training_continues_from_the_last_of_two(tune, model, adapter, dora, tmp_path):  # noqa: F811
    """With the first one in the weights; what is saved is the trained one, in PEFT's files as well."""
    first = ["--lora_path", dora, "--lora_path", adapter / "peft"]
    result = tune(*ONCE, *first, "--save_peft", "True", model=model)
    assert result.code == 0, result.err
    assert f"{dora} is merged into the weights; {adapter / 'peft'} is trained" in result.err
    saved = json.loads((tmp_path / "out" / "lora_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"]) == (8, 16)
    assert sorted(path.name for path in (tmp_path / "out" / "peft").iterdir()) == PEFT_FILES


MODEL_FILES, LORA_FILES = {"config.json", "model.safetensors"}, {"lora_config.json", "lora_model_state.pdparams"}


@pytest.mark.parametrize("first", [[], ["--lora", "True", "--save_peft", "True"]], ids=["full first", "lora first"])
def test_overwriting_leaves_no_model_of_the_other_kind(tune, first, tmp_path):  # noqa: F811
    """Who loads the directory gets what the run says that it trained."""
    second = [] if first else ["--lora", "True"]
    assert tune(*ONCE, *first).code == 0
    (tmp_path / "out" / "export").mkdir()
    (tmp_path / "out" / "export" / "glm.onnx.manifest.json").write_text("{}")
    assert tune(*ONCE, *second, "--overwrite_output_dir").code == 0
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there >= (LORA_FILES if second else MODEL_FILES)
    assert not there & (MODEL_FILES if second else LORA_FILES)
    assert not there & {"peft", "export"}


def test_a_lora_run_does_not_overwrite_its_base_model(tune, tmp_path):  # noqa: F811
    assert tune(*ONCE).code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    result = tune(*ONCE, "--lora", "True", "--overwrite_output_dir", model=tmp_path / "out")
    assert_error(
        result, 2, "output_dir .*out holds the model that the adapter is trained on, and --overwrite_output_dir"
    )
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}

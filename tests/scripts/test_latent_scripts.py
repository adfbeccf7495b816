"""GLM-4.7-Flash's tiny preset through the command line: tuned, merged, predicted; exports refuse it in one line."""

import json

import pytest
from commands import GREEDY, SHORT

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


@pytest.mark.parametrize("form", ["paddle", "onnx"])
def test_exports_are_refused_in_one_line(run, tmp_path, form):
    where = ["--model_name_or_path", TINY, "--output_path", tmp_path / "infer" / "glm"]
    result = run("export_generation_model.py", *where, "--format", form)
    assert result.code == 1
    assert result.error.startswith("error: a model with latent attention (kv_lora_rank 32) cannot be exported yet")
    assert not (tmp_path / "infer").exists()

"""yarn as the GLM-4-0414 model card has it: config.json edited by hand, and every command takes longer texts."""

import json
import shutil
import sys

import pytest
from commands import GREEDY
from safetensors.numpy import load_file

ORIGINAL, FACTOR = 32, 4.0
YARN = {"type": "yarn", "factor": FACTOR, "original_max_position_embeddings": ORIGINAL}
LENGTHS = ["--src_length", "100", "--tgt_length", "12"]
TEXT = "云溪桥建于1920年,长30米,是石桥。祥云塔在城南，望月楼在城北。" * 2
needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")


def edited(directory, source, **fields):
    """A copy of a model's directory whose config.json has other fields."""
    shutil.copytree(source, directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def models(chat_models, tmp_path_factory):
    """One model made for short texts, with yarn and without."""
    folder, short = tmp_path_factory.mktemp("long"), {"max_position_embeddings": ORIGINAL}
    plain = edited(folder / "plain", chat_models["glm4-0414"], **short)
    return plain, edited(folder / "yarn", chat_models["glm4-0414"], **short, rope_scaling=YARN)


@pytest.fixture(scope="module")
def predicted(run, models):
    """The text behind a prompt that ends far beyond the original length."""
    result = run("predict_generation.py", "--model_name_or_path", models[1], *LENGTHS, *GREEDY, TEXT)
    assert result.code == 0, result.err
    return result.texts


def test_longer_texts_than_the_original_length(run, models, predicted):
    assert len(predicted) == 1
    result = run("predict_generation.py", "--model_name_or_path", models[0], *LENGTHS, *GREEDY, TEXT)
    assert result.code == 2
    assert result.error.endswith(f"need position 111, and the model ends at {ORIGINAL}: choose shorter ones")


def test_the_positions_change_the_text(run, models, predicted, tmp_path):
    wide = edited(tmp_path / "wide", models[0], max_position_embeddings=512)
    result = run("predict_generation.py", "--model_name_or_path", wide, *LENGTHS, *GREEDY, TEXT)
    assert result.code == 0, result.err
    assert result.texts != predicted


def test_exports_write_the_same(run, models, predicted, tmp_path):
    for format in ("paddle", "onnx") if sys.version_info >= (3, 11) else ("paddle",):
        where = ["--model_name_or_path", models[1], "--output_path", tmp_path / "glm", "--format", format]
        result = run("export_generation_model.py", *where)
        assert result.code == 0, result.err
        manifest = next(path for path in tmp_path.glob("*.json") if "max_position" in path.read_text("utf-8", "ignore"))
        assert json.loads(manifest.read_text("utf-8"))["max_position"] == FACTOR * ORIGINAL
        assert json.loads((tmp_path / "config.json").read_text("utf-8"))["rope_scaling"]["factor"] == FACTOR
        backend = {"paddle": "paddle", "onnx": "onnx_runtime"}[format]
        for more in ([], ["--stream"]):
            answer = run("infer_generation.py", "--model_path", tmp_path, "--backend", backend, *LENGTHS, *more, TEXT)
            assert answer.code == 0, answer.err
            assert "".join(answer.texts) == "".join(predicted), (format, more)


def test_conversion_keeps_it(run, models, tmp_path):
    """There and back the file is what it was."""
    there = run("convert_checkpoint.py", "--source", models[1], "--target", tmp_path / "paddle", "--format", "paddle")
    assert there.code == 0, there.err
    back = run("convert_checkpoint.py", "--source", tmp_path / "paddle", "--target", tmp_path / "hf", "--format", "hf")
    assert back.code == 0, back.err
    fields = [json.loads((path / "config.json").read_text("utf-8")) for path in (models[1], tmp_path / "hf")]
    for each in fields:
        each.pop("tensor_parallel_degree", None)
    assert fields[0] == fields[1] and fields[0]["rope_scaling"] == YARN
    assert len(load_file(tmp_path / "hf" / "model.safetensors")) > 20


def test_it_trains_and_stays(run, models, predicted, tmp_path):
    rows = [{"instruction": TEXT, "output": "是。"}] * 4
    (tmp_path / "train.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    result = run(
        *("finetune_instruction_generation.py", "--model_name_or_path", models[1], "--data_path", tmp_path),
        *("--do_train", "--max_steps", "2", "--output_dir", tmp_path / "out", *LENGTHS),
    )
    assert result.code == 0, result.err
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["rope_scaling"] == {"rope_type": "yarn"} | {name: YARN[name] for name in YARN if name != "type"}
    assert config["rope_parameters"]["rope_type"] == "yarn"

"""predict_generation.py: where texts come from and go to, streaming, adapters, merging."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import ROOT, SHORT, TINY, predictions, run_cold
from safetensors.numpy import load_file, save_file

TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"


@pytest.fixture(scope="module")
def predict(run, model):
    def predicted(*arguments, **options):
        result = run("predict_generation.py", "--model_name_or_path", model, *SHORT, *arguments, **options)
        assert result.code == 0, result.err
        return result

    return predicted


@pytest.fixture(scope="module")
def texts(predict, sources) -> list[str]:
    """What the model makes of the sources, eight together."""
    return predict("--input_file", sources, "--batch_size", "8").texts


def test_from_a_cold_start(model, predict):
    """Started by a cold interpreter: text and speed, and nothing of Paddle's own log."""
    result = run_cold("predict_generation.py", "--model_name_or_path", model, *SHORT, TEXT)
    assert result.code == 0
    assert result.out == predict(TEXT).out
    assert result.out.startswith(f"{TEXT}\n  → ")
    assert [line for line in result.err.splitlines() if "tokens/s" not in line] == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_do_not_change_texts(predict, sources, texts, size):
    assert predict("--input_file", sources, "--batch_size", size).texts == texts


def test_temperature_0_is_greedy(predict, sources, texts):
    drawn = ["--input_file", sources, "--batch_size", "8", "--do_sample", "--temperature"]
    assert predict(*drawn, "0").texts == texts != predict(*drawn, "3").texts


def test_texts_from_everywhere_give_the_same(predict, sources, texts):
    lines = sources.read_text(encoding="utf-8")
    assert predict(*lines.splitlines()).texts == texts
    assert predict("-", stdin=lines).texts == texts
    assert predict("-", stdin="\n" + lines.replace("\n", "\n\n")).texts == texts


def test_output_file_holds_a_text_a_line(predict, sources, texts, tmp_path):
    out = tmp_path / "out.txt"
    assert predict("--input_file", sources, "--output_file", out).texts == texts
    assert out.read_text(encoding="utf-8").splitlines() == texts


def test_streaming_gives_the_same_texts(predict, sources, texts, tmp_path):
    out = tmp_path / "out.txt"
    assert predict("--input_file", sources, "--stream", "--output_file", out).texts == texts
    assert out.read_text(encoding="utf-8").splitlines() == texts
    drawn = ["--do_sample", "--temperature", "2", "--seed", "7"]
    assert predict(TEXT, *drawn, "--stream").texts == predict(TEXT, *drawn).texts


def test_the_seed_decides_what_is_drawn(predict):
    drawn = ["--do_sample", "--temperature", "3", TEXT]
    assert predict(*drawn, "--seed", "1").texts == predict(*drawn, "--seed", "1").texts
    assert predict(*drawn, "--seed", "1").texts != predict(*drawn, "--seed", "2").texts


def test_long_texts_lose_their_beginning_and_are_counted(predict):
    result = predict("--src_length", "20", "云" * 40 + TEXT, TEXT, "云溪桥")
    assert "2 text(s) cut to src_length 20: their beginning is lost" in result.err
    assert result.texts[0] == result.texts[1]


def test_the_adapter_is_used(predict, adapter, sources, texts):
    """Merged into the weights, it gives what the evaluation after its training gave beside them."""
    adapted = predict("--input_file", sources, "--lora_path", adapter).texts
    assert adapted == predictions(adapter)
    assert adapted != texts
    assert predict("--input_file", sources, "--lora_path", adapter / "peft").texts == adapted


def test_merging_saves_a_whole_model(run, predict, model, adapter, sources, texts, tmp_path):
    merged = tmp_path / "merged"
    adapted = predict("--input_file", sources, "--lora_path", adapter, "--merge_tensor_parallel_path", merged)
    assert f"saved the merged model to {merged}" in adapted.err
    alone = run("predict_generation.py", "--model_name_or_path", merged, *SHORT, "--input_file", sources)
    assert alone.texts == adapted.texts
    before, after = (load_file(path / "model.safetensors") for path in (model, merged))
    changed = {name.rsplit(".", 2)[-2] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"query_key_value"}


def test_merging_into_the_models_own_directory_keeps_it_whole(run, model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    result = run("predict_generation.py", "--model_name_or_path", copy, "--merge_tensor_parallel_path", copy, "云")
    assert result.code == 0, result.err
    assert (copy / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_merging_over_an_earlier_model_leaves_nothing_of_it(run, model, tmp_path):
    merged = tmp_path / "merged"
    shutil.copytree(model, merged, ignore=shutil.ignore_patterns("checkpoint-*"))
    (merged / "generation_config.json").write_text('{"do_sample": true, "temperature": 5.0}')
    result = run("predict_generation.py", "--model_name_or_path", model, "--merge_tensor_parallel_path", merged, "云")
    assert result.code == 0, result.err
    assert not (merged / "generation_config.json").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("glm.onnx.manifest.json", "holds the export of glm.onnx.manifest.json"),
        ("config.json", "config.json is of no model there, and would be replaced"),
    ],
)
def test_merging_replaces_nothing_but_a_model(run, model, tmp_path, name, said):
    """Said before anything is generated."""
    (tmp_path / name).write_text("{}")
    result = run("predict_generation.py", "--model_name_or_path", model, "--merge_tensor_parallel_path", tmp_path, "云")
    assert (result.code, result.out) == (1, "") and said in result.error
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_reader_that_leaves_is_no_error(model, sources, tmp_path):
    """As `head -1` does; the results are written all the same."""
    words = ["predict_generation.py", "--model_name_or_path", model, *SHORT, "--input_file", sources]
    command = [sys.executable, *map(str, words), "--output_file", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141 and "error" not in error
    assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == len(sources.read_text().splitlines())


def test_damaged_weights_are_no_text(run, model, tmp_path):
    """Blanks would come: nan is neither lower nor higher than anything."""
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    next(array for name, array in weights.items() if name.endswith("dense_4h_to_h.weight"))[0, 0] = np.nan
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "np"})
    where = ["--model_name_or_path", tmp_path / "model"]
    result = run("predict_generation.py", *where, *SHORT, TEXT)
    assert result.code == 1 and "the model's logits became nan or infinite: its weights are damaged" in result.error
    export = run(
        "export_generation_model.py", *where, "--format", "paddle", "--output_path", tmp_path / "infer" / "glm"
    )
    assert export.code == 0, export.err
    for more in (["--backend", "paddle"], ["--backend", "paddle", "--stream"]):
        result = run("infer_generation.py", "--model_path", tmp_path / "infer", *SHORT, *more, TEXT)
        assert (result.code, result.texts) in ((1, []), (1, [""])) and "nan or infinite" in result.error


def test_a_half_precision_checkpoint_runs_on_the_cpu(run, model, tmp_path):
    """Published weights are in half precision; a CPU computes with them in float32."""
    half = tmp_path / "half"
    shutil.copytree(model, half, ignore=shutil.ignore_patterns("checkpoint-*"))
    stored = load_file(model / "model.safetensors")
    save_file({name: array.astype("float16") for name, array in stored.items()}, half / "model.safetensors")
    config = json.loads((half / "config.json").read_text(encoding="utf-8"))
    (half / "config.json").write_text(json.dumps(config | {"dtype": "float16"}), encoding="utf-8")
    result = run("predict_generation.py", "--model_name_or_path", half, "--device", "cpu", TEXT)
    assert result.code == 0, result.err
    assert all(result.texts)
    exported = run("export_generation_model.py", "--model_name_or_path", half, "--output_path", tmp_path / "x" / "glm")
    assert exported.code == 0, exported.err
    assert run("infer_generation.py", "--model_path", tmp_path / "x", "--device", "cpu", TEXT).texts == result.texts


def test_the_untrained_preset_is_one_model(run, tmp_path):
    """Its random weights are the same in every process, so an adapter trained on it fits later."""
    results = [run("predict_generation.py", "--model_name_or_path", TINY, "云溪桥") for _ in range(2)]
    assert results[0].texts == results[1].texts
    assert "no text given" not in results[0].err

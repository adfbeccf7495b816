"""`python -m benchmarks.quality` and `python -m benchmarks.big_export`, as docs/quantization.md has them."""

import json

import numpy as np
import pytest
from tiny_chat import write_chat_model

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
from benchmarks import big_checkpoint, big_export, big_latents, big_serving, quality, quality_layer
from glm.runtime.onnx_columns import OnnxColumnRuntime

pytestmark = pytest.mark.process  # the benchmarks ask other programs what machine this is, and start workers

NARROW = {"hidden_size": 512, "num_attention_heads": 4, "ffn_hidden_size": 1024, "seq_length": 2048}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat_model("glm4", tmp_path_factory.mktemp("model"))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "new" / "report.json"


def test_quality_of_every_kind_of_weights(model, output, monkeypatch, capsys):
    monkeypatch.setattr(quality_layer, "SHAPE", (256, 96))
    arguments = ["--model", str(model), "--data", "dureader_qg", "adgen=/none/there", "--rows", "3"]
    assert quality.main([*arguments, "--output", str(output)]) == 0
    report, shown = json.loads(output.read_text(encoding="utf-8")), capsys.readouterr()
    (measured,) = report["data"].values()
    assert measured.keys() == quality.kinds().keys() == report["megabytes"].keys()
    assert all(0 <= each["agreement"] <= 1 and each["perplexity"] > 1 for each in measured.values())
    assert measured["int8, 32"]["divergence"] < measured["int4, 32"]["divergence"]
    assert report["megabytes"]["int4, 128"] < report["megabytes"]["int8, 128"] < report["megabytes"]["fp32"]
    assert all(f"{kind} " in shown.out for kind in measured)
    assert "/none/there is missing: adgen is left out" in shown.err
    assert [path.name for path in output.parent.iterdir()] == [output.name], "exports were left behind"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--model", "/none"], "/none"), (["--data", "adgen=/none"], "none of adgen=/none is there")],
)
def test_what_is_missing_is_one_line(model, output, arguments, said, capsys):
    assert quality.main(["--model", str(model), "--output", str(output), *arguments]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("benchmarks.quality: ") and not output.exists()


@pytest.mark.long
def test_a_checkpoint_is_exported_and_served(tmp_path, output, monkeypatch, capsys):
    monkeypatch.setattr(big_checkpoint, "CONFIG", big_checkpoint.CONFIG | NARROW)
    arguments = ["--directory", str(tmp_path / "work"), "--layers", "1", "--vocabulary", "512"]
    assert big_serving.main([*arguments, "--output", str(output)]) == 0, capsys.readouterr().err
    report, shown = json.loads(output.read_text(encoding="utf-8")), capsys.readouterr().out
    assert [load["streams"] for load in report["loads"]] == [1, 2] and report["ready_seconds"] > 0
    for load in report["loads"]:
        assert load["output_tokens"] == load["streams"] * big_serving.ROUNDS * big_serving.NEW_TOKENS
        assert load["decode"] > 0 and load["limit"] > 0
    # Twice the texts of one reading of the weights, but for their caches.
    one, two = (load["limit"] for load in report["loads"])
    assert one < two < 2 * one
    assert "start to ready" in shown and not (tmp_path / "work").exists()


def test_a_checkpoint_is_exported_and_decodes(tmp_path, output, monkeypatch, capsys):
    """In processes of their own, as at full size."""
    monkeypatch.setattr(big_checkpoint, "CONFIG", big_checkpoint.CONFIG | NARROW)
    arguments = ["--directory", str(tmp_path / "work"), "--layers", "1", "--vocabulary", "512"]
    big_export.main([*arguments, "--output", str(output)])
    report, shown = json.loads(output.read_text(encoding="utf-8")), capsys.readouterr().out
    export, generation = report["export"], report["generation"]
    assert len(generation["tokens"]) == big_export.NEW_TOKENS + 1
    assert 0 < generation["tokens_per_second"] <= generation["best_tokens_per_second"]
    assert 4 / 16 < export["bytes"] / report["checkpoint_bytes"] < 8 / 16
    assert "decode, of that" in shown and not (tmp_path / "work").exists()


def test_true_shapes_over_latents_decode(tmp_path, output, capsys):
    """One layer, which has no experts; in processes of their own, as at full size."""
    arguments = ["--directory", str(tmp_path / "work"), "--layers", "1", "--vocabulary", "512"]
    big_latents.main([*arguments, "--output", str(output)])
    report, shown = json.loads(output.read_text(encoding="utf-8")), capsys.readouterr().out
    export, generation = report["export"], report["generation"]
    assert 0 < generation["steps_at_2000"] <= generation["best_at_2000"]
    assert 4 / 8 < export["bytes"] / export["parameters"] < 5 / 8
    assert "steps behind 2000 tokens" in shown and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("layers", "made", "said"),
    [
        (3, 1, "--made 1 has no layer with experts to copy behind 1 dense: give at least 2"),
        (3, 0, "--made 0 has no layer with experts"),
        (1, 0, "--made 0 has no layer with experts"),
        (3, 4, "--made 4 is more than --layers 3: lower it"),
    ],
)
def test_layers_that_cannot_be_copied_are_one_line(tmp_path, output, layers, made, said):
    arguments = ["--directory", tmp_path / "work", "--layers", layers, "--made", made, "--output", output]
    with pytest.raises(SystemExit, match=f"^benchmarks.big_latents: {said}"):
        big_latents.main([*map(str, arguments)])
    assert not (tmp_path / "work").exists() and not output.exists()


def test_layers_behind_those_that_were_made_are_copies_of_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(big_latents, "PRESET", "glm-4.7-flash-tiny")
    prefix, kept = tmp_path / "model", []
    big_latents.export(prefix, "int4", 2, 512)
    for copied in (False, True):
        if copied:
            assert big_latents.repeat(prefix, "int4", 2, 5, 512) == (tmp_path / "model.onnx.data").stat().st_size
        runtime = OnnxColumnRuntime(prefix.with_suffix(".onnx"), 8, threads=1)
        cache = runtime.new_cache(1, 8)
        runtime.prefill(cache, 0, [5, 6, 7], np.arange(3)[None], 0, 0)
        kept.append(cache.store[:, 0, 0, :3])
    made, all_of_them = kept
    assert len(all_of_them) == 5 and np.allclose(made, all_of_them[:2])
    assert np.abs(all_of_them).max(axis=(1, 2)).min() > 0

"""A config.json as another program wrote it, through every command that reads one."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import GREEDY, ROOT, SHORT

from glm.memory.__main__ import main

TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"
WARNING = "config.json: taken to change nothing, for nobody here knows it: made_by, zeta"
# As transformers 4.30 writes it for the class of GLM (2021), and two fields that nobody knows.
FIELDS = json.loads((ROOT / "tests" / "checkpoint" / "glm_2021_configs.json").read_text("utf-8"))
FIELDS = FIELDS["every field of transformers 4.30.2"] | {"made_by": "hand", "zeta": 1}
SIZES = ("vocab_size", "hidden_size", "num_layers", "num_attention_heads", "max_sequence_length")


@pytest.fixture(scope="module")
def foreign(model, tmp_path_factory) -> Path:
    """The trained model, its config.json in the other program's words."""
    directory = tmp_path_factory.mktemp("foreign") / "model"
    shutil.copytree(model, directory, ignore=shutil.ignore_patterns("checkpoint-*"))
    written = json.loads((directory / "config.json").read_text("utf-8"))
    fields = FIELDS | {name: written[name] for name in SIZES}
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return directory


def test_every_command_reads_it_and_says_what_it_does_not_know(run, model, foreign, tmp_path):
    wanted = run("predict_generation.py", "--model_name_or_path", model, *SHORT, *GREEDY, TEXT)
    found = run("predict_generation.py", "--model_name_or_path", foreign, *SHORT, *GREEDY, TEXT)
    results = [found]
    assert found.texts == wanted.texts and len(wanted.texts) == 1
    for format in ("paddle", "onnx") if sys.version_info >= (3, 11) else ("paddle",):
        where = ["--output_path", tmp_path / format / "glm", "--format", format]
        results.append(run("export_generation_model.py", "--model_name_or_path", foreign, *where))
    where = ["--source", foreign, "--target", tmp_path / "hf", "--format", "hf"]
    results.append(run("convert_checkpoint.py", *where))
    for result in results:
        assert result.code == 0, result.err
        assert result.err.count(WARNING) == 1, result.err
    converted = json.loads((tmp_path / "hf" / "config.json").read_text("utf-8"))
    assert converted == json.loads((foreign / "config.json").read_text("utf-8"))  # unknown fields go along


def test_memory_reads_it(foreign, monkeypatch, capsys, caplog):
    monkeypatch.setattr(sys, "argv", ["glm.memory", "--model_name_or_path", str(foreign), "--device_memory", "4"])
    main()
    assert "yes" in capsys.readouterr().out
    assert caplog.text.count(WARNING) == 1


def test_what_changes_results_stops_every_command(run, foreign, tmp_path):
    shutil.copytree(foreign, tmp_path / "window")
    (tmp_path / "window" / "config.json").write_text(json.dumps(FIELDS | {"sliding_window": 128}), encoding="utf-8")
    message = f"error: {tmp_path / 'window' / 'config.json'}: sliding_window is 128, and only None is supported"
    for command in (
        ["predict_generation.py", "--model_name_or_path", tmp_path / "window", TEXT],
        ["export_generation_model.py", "--model_name_or_path", tmp_path / "window", "--output_path", tmp_path / "e/x"],
        ["convert_checkpoint.py", "--source", tmp_path / "window", "--target", tmp_path / "out", "--format", "hf"],
    ):
        result = run(*command)
        assert result.code == 1
        assert result.error.startswith(message)
        assert "Traceback" not in result.err
    assert not (tmp_path / "e").exists() and not (tmp_path / "out").exists()

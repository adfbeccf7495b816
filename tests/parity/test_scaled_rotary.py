"""Scaled rotary positions (yarn, linear, llama3) are transformers 5.3.0's: golden values, and the package itself."""

import json
import os
import subprocess
from pathlib import Path

import fixture_files
import numpy as np
import pytest
from remote_code import write_directory
from rope_cases import CASES, LOGITS, MODELS, WIDE, config_of
from safetensors.numpy import load_file
from test_family_models import inputs, opened, prompt_of
from tiny_glm import relative_error, uncached_logits

import glm.model.rotary
from glm.config.fields import PlainConfig
from glm.generation.options import GenerationConfig
from glm.generation.search import StopTokens
from glm.model.rotary import scaled_frequencies

GOLDEN = load_file(fixture_files.FIXTURES / "scaled_rotary.safetensors")
BENCH = Path(__file__).resolve().parents[2] / ".venv-bench" / "bin" / "python"
# An angle at position 100,000 is 100,000 times the step of a frequency; of 1e-7 that is a hundredth of a radian.
FREQUENCY_BOUND, LOGIT_BOUND = 1.2e-7, 1e-5


def written(directory: Path, name: str, case: str, **changes) -> Path:
    fixture = fixture_files.load(name)
    return write_directory(directory / "model", config_of(fixture.config, case) | changes, fixture.weights)


def off(directory: Path, case: str, arrays=GOLDEN) -> float:
    """How far inverse frequencies of heads of 128 are from transformers', relative; the factor must be equal."""
    config = config_of(fixture_files.load(MODELS[1]).config, case) | WIDE
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    frequencies, factor = scaled_frequencies(PlainConfig.from_pretrained(str(directory)))
    assert factor == arrays[f"{case}.factor"].item()
    return float(np.abs(frequencies / arrays[f"{case}.frequencies"] - 1).max())


def logits_off(directory: Path, name: str, case: str, arrays=GOLDEN) -> float:
    """Over real tokens; positions lie around 100,000."""
    batch = fixture_files.load(name).case("far")
    real = batch["attention_mask"] == 1
    logits = opened(written(directory, name, case))(*inputs(batch)).numpy()
    return relative_error(logits[real], arrays[f"{case}.{name}"][real])


@pytest.mark.parametrize("case", CASES)
def test_frequencies(case, tmp_path):
    assert off(tmp_path, case) < FREQUENCY_BOUND


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("case", LOGITS)
def test_logits(case, name, tmp_path):
    assert logits_off(tmp_path, name, case) < LOGIT_BOUND


def test_another_ramp_or_factor_shows(tmp_path, monkeypatch):
    """Bounds that nothing could miss would prove nothing."""
    monkeypatch.setattr(glm.model.rotary, "floor", lambda x: x)
    assert off(tmp_path, "card") > 0.01
    monkeypatch.undo()
    monkeypatch.setattr(glm.model.rotary, "_attention_factor", lambda scaling: 1.0)
    assert logits_off(tmp_path, MODELS[0], "card") > 0.01


@pytest.mark.slow
@pytest.mark.skipif(not BENCH.exists(), reason="no environment with torch and transformers (make bench)")
def test_transformers_itself(tmp_path):
    """The golden values once more, made by the installed package, and the same bounds."""
    make = f"from pathlib import Path; import make_fixtures; make_fixtures.make_scaled_rotary(Path({str(tmp_path)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "HF_HUB_OFFLINE": "1"}
    subprocess.run([BENCH, "-c", make], env=environment, check=True, capture_output=True, timeout=300)
    fresh = load_file(tmp_path / "scaled_rotary.safetensors")
    assert fresh.keys() == GOLDEN.keys()
    for case in CASES:
        assert off(tmp_path, case, fresh) < FREQUENCY_BOUND, case
    for case in LOGITS:
        assert logits_off(tmp_path / case, MODELS[0], case, fresh) < LOGIT_BOUND, case


def test_cached_is_uncached(tmp_path):
    """Greedy tokens of the cache are those of the whole text; without scaling they are others."""
    fixture = fixture_files.load(MODELS[0])
    short = {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}}
    model, plain = opened(written(tmp_path, MODELS[0], "card", **short)), opened(fixture.directory)
    prompt, config = prompt_of(fixture), GenerationConfig(max_length=10)
    stop = StopTokens((79,), fixture.settings["pad_token_id"])
    found = model.generate(prompt, config, stop)[0].numpy()
    for count in range(found.shape[1]):
        assert uncached_logits(model, prompt, found[:, :count]).argmax(axis=1).tolist() == found[:, count].tolist()
    assert plain.generate(prompt, config, stop)[0].numpy().tolist() != found.tolist()

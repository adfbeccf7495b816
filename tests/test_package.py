"""What an installation of this project is: its version, licence, requirements, and what lies outside of the package."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

import glm
from glm.config import presets
from glm.datasets import load_examples, tasks
from glm.errors import GLMError

ROOT = Path(__file__).resolve().parents[1]
PINS = {
    "dependencies": "requirements.txt",
    "eval": "requirements-eval.txt",
    "serve": "requirements-serve.txt",
    "harness": "requirements-harness.txt",
    "bench": "requirements-bench.txt",
    "test": "requirements-test.txt",
}


@pytest.fixture(scope="module")
def project() -> Distribution:
    """What setuptools makes of pyproject.toml, what it reads from other files included."""
    return apply_configuration(Distribution(), ROOT / "pyproject.toml")


def pins(file: str) -> set[str]:
    lines = (ROOT / file).read_text("utf-8").replace("_full_version", "_version").splitlines()
    return {str(Requirement(line)) for line in lines if line and not line.startswith("#")}


def test_there_is_one_version(project):
    assert project.metadata.version == glm.__version__
    assert re.fullmatch(r"0\.\d+\.\d+", glm.__version__)


def test_the_licence(project):
    assert project.metadata.license_expression == "Apache-2.0" and project.metadata.license_files == ["LICENSE"]
    words = (ROOT / "LICENSE").read_text("utf-8").split()
    assert words[:4] == ["Apache", "License", "Version", "2.0,"]
    assert len(words) > 1500  # all of it


@pytest.mark.parametrize("extra", PINS)
def test_requirements_are_those_of_the_files(project, extra):
    found = project.install_requires if extra == "dependencies" else project.extras_require[extra]
    assert {str(Requirement(pin)) for pin in found} == pins(PINS[extra])
    assert all("==" in pin for pin in found)


def test_every_extra_has_a_file(project):
    assert set(project.extras_require) == set(PINS) - {"dependencies"}


def test_serving_has_a_lock_of_its_own():
    """With the versions that everything else is tested with, and neither Paddle nor PaddleNLP."""
    served = pins("requirements-serve.lock")
    assert pins(PINS["serve"]) <= served
    names = {Requirement(pin).name for pin in served}
    assert not {"paddlepaddle", "paddlenlp", "torch", "transformers", "datasets"} & names
    versions = {(Requirement(pin).name, str(Requirement(pin).specifier)) for pin in served}
    assert versions <= {(Requirement(pin).name, str(Requirement(pin).specifier)) for pin in pins("requirements.lock")}


def test_what_both_files_name_has_one_version():
    ours, theirs = ({Requirement(pin).name: pin for pin in pins(PINS[extra])} for extra in ("serve", "dependencies"))
    assert all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys())


def test_the_page_is_packed(project):
    assert project.package_data == {"glm.kernels": ["sources/*"], "glm.serving": ["page/**"]}
    assert (ROOT / "glm/serving/page/index.html").is_file()


@pytest.mark.parametrize("extra", [extra for extra in PINS if extra not in ("bench", "harness")])
def test_the_lock_has_them(extra):
    """`make setup` installs the lock."""
    assert pins(PINS[extra]) <= pins("requirements.lock")


def test_the_main_installation_does_not_grow_by_the_harness():
    locked = {Requirement(pin).name.lower() for pin in pins("requirements.lock")}
    assert not {"lm-eval", "lm_eval", "evaluate", "torch", "transformers"} & locked


def test_a_tiny_model_needs_the_checkout(monkeypatch, tmp_path):
    """The package alone, as `pip install .` leaves it, has no data/ beside it."""
    assert presets.bundled_tokenizer("glm-4-9b-0414-tiny").is_dir()
    monkeypatch.setattr(presets, "BUNDLED", tmp_path)
    with pytest.raises(GLMError, match=r"^the tokenizer of 'glm-4-9b-0414-tiny' is data/glm4-0414-tiny of a checkout"):
        presets.bundled_tokenizer("glm-4-9b-0414-tiny")


def test_a_sample_needs_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "SAMPLES", tmp_path)
    with pytest.raises(
        GLMError, match=r"^task dureader_qg has no bundled sample at .*; get its JSON file from https://"
    ):
        load_examples("dureader_qg", "dev")

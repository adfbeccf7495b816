"""Likelihoods on two simulated NPUs, by one model that they share and by two copies, are those of one CPU process."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
from family_models import FAMILY, write_family_model
from likelihood_cases import ROWS, assert_same
from tiny_glm import tiny_model

from glm import GLMForCausalLM
from glm.api.loading import load_processor
from glm.evaluation.likelihood import Likelihood
from glm.evaluation.likelihood.model import model_scorer
from tests.npu_simulator.launching import ROOT, launch, needs_compiler

pytestmark = needs_compiler
SCRIPT = Path(__file__).parent / "scripts" / "likelihood_ranks.py"
NAMES = ("glm", *FAMILY)
ODD = 387  # rows of a vocabulary that 2 does not divide


def write_glm(directory: Path) -> Path:
    tiny_model(seed=5, vocab_size=ODD, max_position_embeddings=256).save_pretrained(directory)
    shutil.copytree(ROOT / "data" / "glm-tiny-chinese", directory, dirs_exist_ok=True)
    return directory


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """way → by model, what two ranks find."""
    folder = tmp_path_factory.mktemp("ranks")
    directories = [write_glm(folder / "glm"), *(write_family_model(folder / name, name) for name in FAMILY)]
    rows = folder / "rows.json"
    rows.write_text(json.dumps([[row.context, row.targets, row.shared] for row in ROWS]))

    @cache
    def run(way: str) -> dict:
        if way == "one":
            return {path.name: on_one(path) for path in directories}
        output = folder / f"{way}.json"
        words = [way, str(rows), str(output), *map(str, directories)]
        result = launch(SCRIPT, 2, folder / f"logs-{way}", words)
        assert result.code == 0, str(result)
        return json.loads(output.read_text())

    return run


def on_one(directory: Path) -> dict:
    model, processor = GLMForCausalLM.from_pretrained(directory), load_processor(directory)
    scorer = model_scorer(model, processor, 2)
    likelihoods = list(scorer(ROWS))
    rows = model.model.embed_tokens.weight.shape[0]
    return {"likelihoods": likelihoods, "tokens_read": scorer.tokens_read, "rows of the embedding": rows}


@pytest.mark.parametrize("way", ["tensor", "data"])
@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_are_one_device(found, way, name):
    ours, wanted = found(way)[name], found("one")[name]
    for row, expected in zip(ours["likelihoods"], wanted["likelihoods"], strict=True):
        assert_same([Likelihood(*each) for each in row], expected)
    shared, whole = ours["rows of the embedding"], wanted["rows of the embedding"]
    assert shared == (-(-whole // 2) if way == "tensor" else whole)
    # Copies read the shots once each.
    assert (ours["tokens_read"] > wanted["tokens_read"]) == (way == "data" and name not in ("glm", "chatglm"))

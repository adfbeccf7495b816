"""Likelihoods of rows by models that ranks share, or of which each process has a copy. Rank 0 writes them.

Arguments: tensor or data, a JSON file of rows, where to write, directories of models.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from dataclasses import astuple
from pathlib import Path

import paddle

from glm.api.loading import load_merged_model, load_processor
from glm.api.predictor import Predictor
from glm.cli.script import run_script
from glm.device.choice import choose_device
from glm.distributed.processes import gather, process_count, process_rank
from glm.evaluation.likelihood import Row
from glm.evaluation.likelihood.divided import divided
from glm.evaluation.replica import Replica
from glm.inference.model_generator import ModelGenerator


def generator(way: str, directory: str) -> ModelGenerator:
    if way == "tensor":
        return Predictor.load(directory, device="npu")
    paddle.set_device(choose_device("npu"))
    return ModelGenerator(load_merged_model(directory), load_processor(directory))


def main() -> None:
    way, rows, output, *directories = sys.argv[1:]
    rows = [Row(context, tuple(targets), shared) for context, targets, shared in json.loads(Path(rows).read_text())]
    found = {}
    for directory in directories:
        made = generator(way, directory)
        copies = process_count() if way == "data" else 1
        scorer = divided(made.scorer(2), Replica(process_rank() % copies, copies))
        likelihoods = [[astuple(each) for each in row] for row in scorer(rows)]
        found[Path(directory).name] = {"likelihoods": likelihoods, "tokens_read": scorer.tokens_read}
        vocabulary = made.model.model.embed_tokens.weight.shape[0]
        found[Path(directory).name]["rows of the embedding"] = vocabulary
    same = gather(json.dumps(found))
    assert same[0] == same[-1], "the processes differ"
    if process_rank() == 0:
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    run_script(main)

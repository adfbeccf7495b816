"""Fine-tuning runs one after another on every rank of a launch, which costs one start instead of many.

python -m paddle.distributed.launch --devices 0,1 finetune_runs.py runs.json     a list of argument lists
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from glm.cli.script import run_script
from glm.training.arguments import DataArguments, DecodeArguments, GLMTrainingArguments, ModelArguments, parse_arguments
from glm.training.finetune import finetune
from glm.training.trainer import GLMTrainer


def runs() -> Iterator[GLMTrainer]:
    """Trains one after another; yields each trainer when it is done."""
    classes = (DataArguments, DecodeArguments, ModelArguments, GLMTrainingArguments)
    for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        yield finetune(*parse_arguments(classes, "", arguments))


def main() -> None:
    for _ in runs():
        pass


if __name__ == "__main__":
    run_script(main)

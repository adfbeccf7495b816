"""Training runs one after another on every rank of a launch, which costs one start instead of many.

python -m paddle.distributed.launch --devices 0,1 finetune_runs.py runs.json     a list of argument lists

Those with --input_dir are pretraining, those with --loss_type preference tuning. Prints of each run whether the ranks
divided the tokens.
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
from glm.training.preference import tune_preference
from glm.training.preference_flags import PreferenceArguments, PreferenceDataArguments, PreferenceModelArguments
from glm.training.pretrain import pretrain
from glm.training.pretrain_flags import PretrainDataArguments, PretrainModelArguments, ScheduleArguments
from glm.training.trainer import GLMTrainer

FINETUNE = (DataArguments, DecodeArguments, ModelArguments, GLMTrainingArguments)
PRETRAIN = (PretrainDataArguments, PretrainModelArguments, ScheduleArguments, GLMTrainingArguments)
PREFERENCE = (PreferenceDataArguments, PreferenceArguments, PreferenceModelArguments, GLMTrainingArguments)
# The flag that tells a kind of run → what runs it, and its arguments.
KINDS = {"--input_dir": (pretrain, PRETRAIN), "--loss_type": (tune_preference, PREFERENCE)}


def runs() -> Iterator[GLMTrainer]:
    """Trains one after another; yields each trainer when it is done."""
    for arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run, classes = next((kind for flag, kind in KINDS.items() if flag in arguments), (finetune, FINETUNE))
        yield run(*parse_arguments(classes, "", arguments))


def main() -> None:
    for trainer in runs():
        print("divided", json.dumps(trainer.model.config.sequence_parallel), flush=True)


if __name__ == "__main__":
    run_script(main)

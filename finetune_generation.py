"""Fine-tunes a GLM to generate text, by default questions (DuReaderQG): full or LoRA, and evaluates by generation."""

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.script import run_script

DESCRIPTION = """\
Fine-tune a GLM to generate text: full or LoRA, on one device or many, with evaluation by generation.

  python finetune_generation.py --model_name_or_path glm-tiny-chinese --do_train --do_eval --output_dir output/qg
  python finetune_generation.py … --lora True --r 8          train LoRA adapters instead of the whole model
  python finetune_generation.py … --data_path my_rows/        folder with train.json and dev.json
  python finetune_generation.py arguments.json                the same arguments from a JSON or YAML file

Run again with the same --output_dir after an interruption: training resumes from the last checkpoint."""


def main() -> None:
    from glm.training.flags import DataArguments, DecodeArguments, ModelArguments, TrainingFlags, help_on_request

    flags = (DataArguments, DecodeArguments, ModelArguments)
    help_on_request((*flags, TrainingFlags), DESCRIPTION)

    from glm.training.arguments import GLMTrainingArguments, parse_arguments
    from glm.training.finetune import finetune

    finetune(*parse_arguments((*flags, GLMTrainingArguments), DESCRIPTION))


if __name__ == "__main__":
    run_script(main)

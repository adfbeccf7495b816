"""Fine-tunes a GLM on instructions or conversations: full or LoRA, and evaluates by generation."""

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.script import run_script

DESCRIPTION = """\
Fine-tune a GLM, ChatGLM-6B, GLM-4-9B or GLM-4-0414 model on instructions or conversations: full or LoRA, on one device
or many.

  python finetune_instruction_generation.py --model_name_or_path glm-tiny-chinese --task_name school_math_0.25M \\
      --do_train --do_eval --output_dir output/belle
  python finetune_instruction_generation.py --model_name_or_path chatglm-6b --task_name adgen …
  python finetune_instruction_generation.py --model_name_or_path glm-4-9b --task_name alpaca …
  python finetune_instruction_generation.py … --task_name messages --data_path chats.jsonl    with roles
  python finetune_instruction_generation.py … --lora True --r 8     train LoRA adapters instead of the whole model
  python finetune_instruction_generation.py … --data_path BelleGroup/school_math_0.25M    from the Hugging Face Hub

Run again with the same --output_dir after an interruption: training resumes from the last checkpoint."""


def main() -> None:
    from glm.training.flags import (
        DecodeArguments,
        InstructionDataArguments,
        ModelArguments,
        TrainingFlags,
        help_on_request,
    )

    flags = (InstructionDataArguments, DecodeArguments, ModelArguments)
    help_on_request((*flags, TrainingFlags), DESCRIPTION)

    from glm.training.arguments import GLMTrainingArguments, parse_arguments
    from glm.training.finetune import finetune

    finetune(*parse_arguments((*flags, GLMTrainingArguments), DESCRIPTION))


if __name__ == "__main__":
    run_script(main)

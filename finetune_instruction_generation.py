"""Fine-tunes a GLM on instructions (BELLE): full or LoRA, and evaluates by generation."""

from dataclasses import dataclass, field

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.arguments import DataArguments, DecodeArguments, GLMTrainingArguments, ModelArguments, parse_arguments
from glm.cli import run_script
from glm.finetune import finetune

DESCRIPTION = """\
Fine-tune a GLM on instruction data in BELLE's format: full or LoRA, on one device or many.

  python finetune_instruction_generation.py --model_name_or_path glm-tiny-chinese --task_name school_math_0.25M \\
      --do_train --do_eval --output_dir output/belle
  python finetune_instruction_generation.py … --lora True --r 8     train LoRA adapters instead of the whole model
  python finetune_instruction_generation.py … --data_path BelleGroup/school_math_0.25M    from the Hugging Face Hub

Run again with the same --output_dir after an interruption: training resumes from the last checkpoint."""


@dataclass
class InstructionDataArguments(DataArguments):
    """Which instructions to train and evaluate on."""

    task_name: str = field(
        default="school_math_0.25M",
        metadata={
            "help": "A BELLE subset: generated_chat_0.4M, school_math_0.25M, train_2M_CN, multiturn_chat_0.8M, …"
        },
    )
    data_name: str = field(default="bellegroup", metadata={"help": "Collection the task belongs to."})


def main() -> None:
    arguments = (InstructionDataArguments, DecodeArguments, ModelArguments, GLMTrainingArguments)
    finetune(*parse_arguments(arguments, DESCRIPTION))


if __name__ == "__main__":
    run_script(main)

"""Tunes a chat model to prefer better answers to worse ones: DPO and its like, full or LoRA."""

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.script import run_script

DESCRIPTION = """\
Tune a ChatGLM-6B, GLM-4-9B or GLM-4-0414 model on pairs of answers, a better and a worse one to the same prompt: DPO
and its like, full or LoRA, on one device or many.

  python finetune_preference.py --model_name_or_path glm-4-9b-chat-tiny --do_train --do_eval --output_dir output/dpo
  python finetune_preference.py --model_name_or_path glm-4-9b-chat --data_path pairs.jsonl --lora True --r 8 …
  python finetune_preference.py … --lora_path output/sft                go on from an adapter, which is the reference
  python finetune_preference.py … --loss_type simpo --beta 2 --simpo_gamma 1     without a reference

Dropout is off, but for --lora_dropout. Run again with the same --output_dir after an interruption: training resumes
from the last checkpoint."""


def main() -> None:
    from glm.training.flags import TrainingFlags, help_on_request
    from glm.training.preference_flags import PreferenceArguments, PreferenceDataArguments, PreferenceModelArguments

    flags = (PreferenceDataArguments, PreferenceArguments, PreferenceModelArguments)
    help_on_request((*flags, TrainingFlags), DESCRIPTION)

    from glm.training.arguments import GLMTrainingArguments, parse_arguments
    from glm.training.preference import tune_preference

    tune_preference(*parse_arguments((*flags, GLMTrainingArguments), DESCRIPTION))


if __name__ == "__main__":
    run_script(main)

"""Pretrains a GLM-4 model on indexed data sets, from random weights or going on from any checkpoint."""

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.script import run_script

DESCRIPTION = """\
Pretrain a GLM-4 model on running text, on one device or many: from random weights, or going on from any checkpoint.

  python pretrain_generation.py --model_name_or_path glm-4-9b-tiny --input_dir output/corpus_text_document \\
      --max_length 256 --max_steps 200 --do_train --do_eval --output_dir output/pretrained
  python pretrain_generation.py … --input_dir output/corpus               every data set of a folder
  python pretrain_generation.py … --input_dir 0.3 english 0.7 chinese     blended by weights
  python pretrain_generation.py --model_name_or_path output/pretrained --do_eval …     loss and perplexity only
  python pretrain_generation.py configs/pretrain_glm4_9b_8k.yaml …        the same arguments from a JSON or YAML file

preprocess_data.py writes the data. Run again with the same --output_dir after an interruption: training resumes from
the last checkpoint, with the next sample."""


def main() -> None:
    from glm.training.flags import TrainingFlags, help_on_request
    from glm.training.pretrain_flags import PretrainDataArguments, PretrainModelArguments, ScheduleArguments

    flags = (PretrainDataArguments, PretrainModelArguments, ScheduleArguments)
    help_on_request((*flags, TrainingFlags), DESCRIPTION)

    from glm.training.arguments import GLMTrainingArguments, parse_arguments
    from glm.training.pretrain import pretrain

    pretrain(*parse_arguments((*flags, GLMTrainingArguments), DESCRIPTION))


if __name__ == "__main__":
    run_script(main)

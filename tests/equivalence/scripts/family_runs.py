"""The runs of finetune_runs.py, whose models are then saved in the other weight format as well."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
from pathlib import Path

from finetune_runs import runs

from glm.cli.script import run_script
from glm.model.lora import GLMLoRAModel


def main() -> None:
    for trainer in runs():
        args, model = trainer.args, trainer.model
        if not isinstance(model, GLMLoRAModel):
            shards = Path(args.output_dir) / "shards"
            model.save_pretrained(shards, weight_format="pdparams", is_main_process=args.should_save)


if __name__ == "__main__":
    run_script(main)

"""The runs of finetune_runs.py, after each of which what every rank has whole must be the same on all of them."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
from finetune_runs import runs

from glm.cli.script import run_script
from glm.distributed.plan import split_axis
from glm.distributed.processes import digest, require_agreement
from glm.model.parameters import as_numpy


def main() -> None:
    for trainer in runs():
        weights = {name: p for name, p in trainer.model.named_parameters() if split_axis(name) is None}
        assert any("lora_A" in name for name in weights)
        require_agreement({name: digest(as_numpy(weight).tobytes()) for name, weight in weights.items()})


if __name__ == "__main__":
    run_script(main)

"""Loss and greedy tokens of several models on every rank of a launch: on_ranks.py MODELS.json RESULTS.json."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from pathlib import Path

from model_checks import loss_and_tokens

from glm.cli.script import run_script
from glm.distributed.processes import process_rank


def main() -> None:
    directories = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results = {name: loss_and_tokens(directory, "npu") for name, directory in directories.items()}
    if process_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)

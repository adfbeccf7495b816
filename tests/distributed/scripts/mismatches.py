"""Fine-tunes with other files in rank 1 than in rank 0, several times over, and prints how each time was refused.

Arguments: a model's directory, a data file, a folder to write to.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import os
import sys
from pathlib import Path

from training_runs import train

from glm.distributed.processes import process_rank
from glm.errors import GLMError
from tests.distributed.launched_runs import DISTRIBUTED, STEPS


def files_of_rank(case: str, model: Path, data: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Model, data and output directory; those of rank 1 differ in what `case` names."""
    own = folder / case / str(process_rank())
    own.mkdir(parents=True)
    if process_rank() == 1 and case == "config":
        config = json.loads((model / "config.json").read_text()) | {"num_layers": 1}
        (own / "config.json").write_text(json.dumps(config))
        return own, data, folder / case / "run"
    if process_rank() == 1 and case == "data":
        (own / "train.json").write_text("".join(data.read_text().splitlines(keepends=True)[1:]))
        return model, own / "train.json", folder / case / "run"
    # A relative path means another directory on each node whose folders are its own.
    os.chdir(own if case == "output" else folder)
    return model, data, Path("run") if case == "output" else folder / case / "run"


def main() -> None:
    model, data, folder = map(Path, sys.argv[1:])
    for case in ("data", "config", "output"):
        files = files_of_rank(case, model, data, folder)
        try:
            train(*files, **STEPS, **DISTRIBUTED)
            print(f"{case}: trained", flush=True)
        except GLMError as error:
            print(f"{case}: {error}", flush=True)


if __name__ == "__main__":
    main()

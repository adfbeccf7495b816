"""Runs the script that its first argument names as a rank that ends as those of the suite's own scripts do."""

import runpy
import sys
from pathlib import Path

from glm.distributed.processes import ending_at_once

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    with ending_at_once():
        runpy.run_path(sys.argv[0], run_name="__main__")

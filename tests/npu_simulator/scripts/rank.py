"""Runs the script that its first argument names, and ends the process at once when that is done.

As `glm.cli.script.run_script` does for the suite's own scripts: Paddle's store and device runtime are not torn down,
for now and then that aborts a rank that has done its work, and the launcher calls the job failed.
"""

import atexit
import os
import runpy
import sys
import traceback
from pathlib import Path


def end_at_once(code: list[int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code[0])


def main() -> None:
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    code = [1]
    atexit.register(end_at_once, code)  # the first to be registered is the last to be called
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code[0] = 0
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BaseException:
        traceback.print_exc()


if __name__ == "__main__":
    main()

"""How every script ends: exit code 0, 1 for a problem, 2 for a wrong argument, and one line that says which."""

import sys
import traceback
from collections.abc import Callable

from glm.errors import GLMError, UsageError


def run_script(main: Callable[[], None]) -> None:
    """Runs `main`; a GLMError or a failing system call becomes one line on standard error.

    `--debug` among the arguments shows the traceback as well.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (GLMError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: choose a smaller batch, shorter texts or a smaller model"
    return " ".join(str(error).split())

"""Does what every script does first in a launch: it meets the other processes."""

import glm  # noqa: F401
from glm.cli.script import run_script
from glm.distributed.processes import barrier

if __name__ == "__main__":
    run_script(barrier)

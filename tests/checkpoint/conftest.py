"""The parity fixtures are tiny checkpoints of three families: tests of conversion use them too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "parity"))

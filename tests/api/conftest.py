"""The reference models and golden fixtures of tests/parity are used here, too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "parity"))

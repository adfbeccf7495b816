"""Where the reference data lies: beside the checkout, here and in CI, and on no user's machine."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"

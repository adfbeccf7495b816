"""A pickle that runs a command when it is loaded, for the tests that refuse it."""

import os
import pickle
from pathlib import Path


class Attack:
    """Unpickling it creates the marker file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def poison(path: Path, marker: Path) -> None:
    """Replaces a pickled dict by one that also holds an attack."""
    path.write_bytes(pickle.dumps({"attack": Attack(marker)}, protocol=4))

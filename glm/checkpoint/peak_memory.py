"""How much memory this process has taken, pages of mapped files included."""

import re
from contextlib import suppress
from pathlib import Path

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The highest resident memory from now on, above what there is now; 0 where the system has no /proc.

    Source: proc(5), VmRSS, VmHWM and clear_refs.
    """

    def __init__(self):
        with suppress(OSError):
            _REFERENCES.write_text("5")  # forget earlier peaks, such as those of imports
        self._before = _kilobytes("VmRSS")

    def growth(self) -> int:
        """In bytes."""
        return max(0, _kilobytes("VmHWM") - self._before) * 1024


def _kilobytes(name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text("ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0

"""Fields of rows that nothing reads: counted and named once a file, so that none is passed over in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glm.datasets.preferences import PreferenceFormat
from glm.datasets.prompts import TaskFormat
from glm.encoding.messages import is_read

_SHOWN = 12  # names in a line, at most


class UnreadFields:
    """Collects what rows have beside the fields of a task. Null and empty values say nothing, and do not count.

    Args:
        task: whose fields are read.
    """

    def __init__(self, task: TaskFormat | PreferenceFormat):
        self._task, self._rows = task, 0
        self._names: dict[str, None] = {}  # in the order in which they were met

    def see(self, row: Mapping[str, Any], checked: Mapping[str, Any]) -> None:
        """Looks at a row as it is in the file, and as its fields were read."""
        read = {field.name_in(row) for field in self._task.fields}.difference(self._task.idle(checked))
        names = [name for name, value in row.items() if name not in read and not _says_nothing(value)]
        for field in self._task.fields:
            value = checked.get(field.key)
            if isinstance(value, list):
                messages = (part for part in value if isinstance(part, Mapping) and "role" in part)
                parts = (key for message in messages for key in message if not is_read(message, key))
                names += [f"{field.name_in(row)}[].{key}" for key in parts]
        self._rows += bool(names)
        self._names |= dict.fromkeys(names)

    def line(self, rows: int) -> str:
        """What to say of a file with this many rows, "" where everything was read."""
        if not self._names:
            return ""
        names, more = list(self._names)[:_SHOWN], len(self._names) - _SHOWN
        named = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        return f"{self._rows} of {rows} rows have fields that are not used: {named}"


def _says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, dict)) and not value)

"""Data files in, text pairs out. Imports neither paddle nor paddlenlp."""

from glm.datasets.prompts import TaskFormat
from glm.datasets.readers import read_rows
from glm.datasets.tasks import PREFERENCE_TASKS, TASKS, LoadedExamples, load_examples, load_preferences
from glm.encoding.examples import Example
from glm.encoding.preference import PreferenceExample

__all__ = [
    "PREFERENCE_TASKS",
    "TASKS",
    "Example",
    "LoadedExamples",
    "PreferenceExample",
    "TaskFormat",
    "load_examples",
    "load_preferences",
    "read_rows",
]

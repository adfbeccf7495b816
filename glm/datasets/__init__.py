"""Data files in, text pairs out. Imports neither paddle nor paddlenlp."""

from glm.datasets.prompts import TaskFormat
from glm.datasets.readers import read_rows
from glm.datasets.tasks import TASKS, LoadedExamples, load_examples
from glm.encoding.examples import Example

__all__ = ["TASKS", "Example", "LoadedExamples", "TaskFormat", "load_examples", "read_rows"]

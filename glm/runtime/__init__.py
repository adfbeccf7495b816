"""Runs exported graphs: one interface, `run(feeds) → arrays`, over the backends of `BACKENDS`. No PaddleNLP."""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol

import numpy as np

from glm.errors import UsageError
from glm.runtime.options import RuntimeOptions


class Runtime(Protocol):
    """A loaded graph."""

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of the graph for inputs by name."""


# Name → module and class; a backend's packages are imported when it is chosen.
BACKENDS = {
    "paddle": ("glm.runtime.paddle_inference", "PaddleInferenceRuntime"),
    "fastdeploy": ("glm.runtime.fastdeploy", "FastDeployRuntime"),
}


def open_runtime(backend: str, options: RuntimeOptions) -> Runtime:
    """Loads a graph into a backend.

    Raises:
        UsageError: an unknown backend. GLMError: the backend is not installed, or the graph is damaged.
    """
    if backend not in BACKENDS:
        raise UsageError(f"backend '{backend}' is unknown; known: {', '.join(BACKENDS)}")
    module, name = BACKENDS[backend]
    opener: Callable[[RuntimeOptions], Runtime] = getattr(import_module(module), name)
    return opener(options)


__all__ = ["BACKENDS", "Runtime", "RuntimeOptions", "open_runtime"]

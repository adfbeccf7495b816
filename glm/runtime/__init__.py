"""Runs exported graphs, without PaddleNLP.

Two interfaces: `LoopRuntime` for a full-loop graph, `StepRuntime` for a decoder step graph, with
which glm/engine generates.
"""

from glm.runtime.backends import BACKENDS, Backend, Choice, choose
from glm.runtime.options import RuntimeOptions
from glm.runtime.step import Cache, LoopRuntime, StepRuntime

__all__ = ["BACKENDS", "Backend", "Cache", "Choice", "LoopRuntime", "RuntimeOptions", "StepRuntime", "choose"]

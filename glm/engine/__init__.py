"""One generation engine over every step runtime (glm/runtime/step.py). Imports neither paddle nor paddlenlp."""

from glm.engine.answers import stream_answer
from glm.engine.engine import Engine, EngineOptions, Event, Request, Result, padded
from glm.engine.stop_strings import StopStrings
from glm.generation_config import GenerationConfig, StopTokens

__all__ = [
    "Engine",
    "EngineOptions",
    "Event",
    "GenerationConfig",
    "Request",
    "Result",
    "StopStrings",
    "StopTokens",
    "padded",
    "stream_answer",
]

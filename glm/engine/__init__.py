"""One generation engine over every step runtime (glm/runtime/step.py). Imports neither paddle nor paddlenlp."""

from glm.engine.engine import Engine, EngineOptions, Event, Request, Result, padded
from glm.generation.options import GenerationConfig, StopTokens
from glm.tokenizers.stop_strings import StopStrings

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
]

"""One generation engine over every step runtime (glm/runtime/step.py). Imports neither paddle nor paddlenlp."""

from glm.engine.core import EngineCore
from glm.engine.engine import Engine, padded
from glm.engine.requests import (
    Constraint,
    EngineOptions,
    EngineStats,
    Event,
    Request,
    Result,
    TokenLogprobs,
)
from glm.generation.options import GenerationConfig, StopTokens
from glm.tokenizers.stop_strings import StopStrings

__all__ = [
    "Constraint",
    "Engine",
    "EngineCore",
    "EngineOptions",
    "EngineStats",
    "Event",
    "GenerationConfig",
    "Request",
    "Result",
    "StopStrings",
    "StopTokens",
    "TokenLogprobs",
    "padded",
]

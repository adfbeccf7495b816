"""The engine over a step graph on npu:1 and on the CPU. Prints the texts of both, and where the cache lies."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from pathlib import Path

from glm.encoding.batches import TextPositions
from glm.engine import Engine, EngineOptions, GenerationConfig, StopTokens
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_step import PaddleStepRuntime

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 12, 13], [20], [5, 6, 7, 8]]
CONFIGS = [GenerationConfig(8), GenerationConfig(6, num_beams=3)]


def texts(device: str, prefix: Path) -> list:
    files = (prefix.with_name(prefix.name + suffix) for suffix in (".json", ".pdiparams"))
    runtime = PaddleStepRuntime(RuntimeOptions(*files, device=device, device_id=1, capacity=32))
    engine = Engine(runtime, TextPositions(), StopTokens((2,), 0), EngineOptions(chunk=4))
    found = [[result.tokens for result in engine.generate(PROMPTS, config)] for config in CONFIGS]
    return [found, str(getattr(engine.core.slots.cache.store, "place", "host"))]


if __name__ == "__main__":
    print(json.dumps({device: texts(device, Path(sys.argv[1])) for device in ("cpu", "npu")}))

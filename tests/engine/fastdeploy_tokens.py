"""What the engine writes with FastDeploy: a program for a Python that has it. Cases in and tokens out as JSON."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from glm.encoding.batches import BlockPositions, TextPositions
from glm.engine import Engine, EngineOptions, StopTokens
from glm.generation.options import GenerationConfig
from glm.runtime.fastdeploy import FastDeployRuntime
from glm.runtime.options import RuntimeOptions


def tokens(case: dict) -> dict[str, list[list[int]]]:
    """By the way of decoding, with one engine, so that later ones find the prompts in its cache."""
    file = Path(case["file"])
    runtime = FastDeployRuntime(RuntimeOptions(file, file, cpu_threads=1, capacity=case["capacity"]))
    positions = BlockPositions(**case["blocks"]) if case["blocks"] else TextPositions()
    ends, pad = case["stop"]
    engine = Engine(runtime, positions, StopTokens(tuple(ends), pad), EngineOptions(chunk=5))
    return {
        way: [result.tokens for result in engine.generate(case["prompts"], GenerationConfig(9, **options))]
        for way, options in case["ways"].items()
    }


if __name__ == "__main__":
    print(json.dumps({name: tokens(case) for name, case in json.load(sys.stdin).items()}))

"""A fresh process that writes its first token: `python -m benchmarks.start SIDE SHAPE DIRECTORY`.

Prints a line when the first token is there, and after all tokens one of JSON: when each stage had ended (seconds since
the system started the process), and how much memory it had held by then. Imports nothing that a user's program of its
side would not import.
"""

import json
import os
import sys
import time
from pathlib import Path

FIRST = "first token"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def main(arguments: list[str]) -> None:
    from benchmarks.settings import QUICK_SHAPES, SHAPES, SIDES, TASKS

    name, key, directory, *quick = arguments
    side, shape = SIDES[name], (QUICK_SHAPES if quick else SHAPES)[key]
    stages = [stage("python")]
    generate = STARTS[side.module](Path(directory), side, shape, stages)
    task = TASKS["memory"]
    for count, what in ((1, FIRST), (task.new_tokens(shape), "all tokens")):
        generate(count)
        stages.append(stage(what))
        if what == FIRST:
            print(FIRST, flush=True)
    print(json.dumps({"stages": stages, "peak_memory": peak_memory()}), flush=True)


def start_onnx(directory: Path, side, shape, stages: list[dict]):
    """As infer_generation.py opens an export, checksums included; only the tokenizer is missing, on both sides."""
    import glm
    from benchmarks.settings import TASKS
    from benchmarks.sides.positions import positions_of
    from benchmarks.sides.prompts import end_token, prompts_of
    from glm.device.tuning import usable_cores
    from glm.engine import Engine, EngineOptions
    from glm.export.files import exported_formats, read_manifest, start_check
    from glm.generation.options import GenerationConfig, StopTokens
    from glm.runtime import RuntimeOptions, choose

    glm.tune()  # as the scripts
    stages.append(stage("imports"))
    export = directory / f"onnx-{side.weights}"
    choice = choose(None, "cpu", exported_formats(export, "glm"))
    check = start_check(export, read_manifest(export, "glm", choice.backend.format))
    files = (export / "glm.onnx", export / "glm.onnx.data")
    options = RuntimeOptions(*files, cpu_threads=usable_cores(), capacity=shape.prompt + shape.new_tokens)
    stop = StopTokens((end_token(directory),), end_token(directory))
    engine = Engine(choice.backend.open_step(options), positions_of(directory), stop, EngineOptions(reuse_prefix=False))
    prompts = prompts_of(directory, TASKS["memory"]).tolist()
    stages.append(stage("model loaded"))

    def generate(count: int) -> list:
        results = engine.generate(prompts, GenerationConfig(max_length=count, min_length=count))
        check.result()
        return results

    return generate


def start_transformers(directory: Path, side, shape, stages: list[dict]):
    """`from_pretrained` and `generate`."""
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.settings import TASKS
    from benchmarks.sides.prompts import prompts_of

    stages.append(stage("imports"))
    model = AutoModelForCausalLM.from_pretrained(directory / "hf", dtype=torch.float32).eval()
    ids = torch.from_numpy(prompts_of(directory, TASKS["memory"]))
    stages.append(stage("model loaded"))
    mask = torch.ones_like(ids)
    return lambda count: model.generate(
        ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )


def start_llama(directory: Path, side, shape, stages: list[dict]):
    """llama-cpp-python's C library, as benchmarks/sides/llama.py uses it."""
    from dataclasses import replace

    from benchmarks.settings import TASKS
    from benchmarks.side import Place
    from benchmarks.sides.llama import Side

    stages.append(stage("imports"))
    opened, task = Side(Place(directory, shape, side)), TASKS["memory"]
    opened.reserve(task)
    stages.append(stage("model loaded"))

    def generate(count: int) -> list:
        opened.shape = replace(shape, new_tokens=count)
        return opened.generate(task, shape.patience).tokens

    return generate


STARTS = {"onnx": start_onnx, "transformers": start_transformers, "llama": start_llama}


def stage(what: str) -> dict:
    return {"what": what, "seconds": since_start(), "memory": peak_memory()}


def since_start() -> float:
    """Seconds since the system made this process (field 22 of /proc/self/stat, in clock ticks since boot)."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / CLOCK_TICKS


def peak_memory() -> int:
    """Most bytes that were resident so far, mapped files included (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])

"""GLM-4-9B's shapes on a small machine: a synthetic checkpoint is exported with few bits per weight, and decodes here.

    python -m benchmarks.big_export --directory /somewhere/with/30/GB/free

Writes 19 GB of random bfloat16 weights (benchmarks/big_checkpoint.py), exports them weight by weight, and generates in
a new process. Export and generation report their own peak of resident memory, mapped files included. Everything but
the JSON file is removed at the end.
"""

import argparse
import json
import multiprocessing
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import glm
from benchmarks.memory_rate import best, read_together
from glm.checkpoint.peak_memory import PeakMemory
from glm.files.atomic import atomic_write
from glm.files.sizes import in_words

glm.tune()  # as the scripts

PROMPT, NEW_TOKENS = 128, 32
READ_BYTES, READ_RUNS = 1 << 29, 9
LAYERS, VOCABULARY, CAPACITY = 40, 151552, 131072


def main(arguments: list[str] | None = None) -> None:
    write_report(parse(arguments), run, show)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_export", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="a new directory; removed at the end")
    parser.add_argument("--checkpoint", type=Path, help="one that is there already, which is kept")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer for a quick look")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="the same")
    parser.add_argument("--weights", choices=("int8", "int4"), default="int4", help="default: %(default)s")
    parser.add_argument("--block_size", type=int, help="default: that of the export")
    parser.add_argument("--output", type=Path, default=Path("output/big_export.json"), help="default: %(default)s")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All steps; export and generation are processes of their own, which import only what they need."""
    checkpoint, prefix = options.checkpoint or options.directory / "checkpoint", options.directory / "model"
    report: dict[str, Any] = {"layers": options.layers, "vocabulary": options.vocabulary}
    report |= {"weights": options.weights, "python": platform.python_version()}
    if options.checkpoint is None:
        from benchmarks.big_checkpoint import make

        make(checkpoint, options.layers, options.vocabulary)
    report["checkpoint_bytes"] = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    report["export"] = in_new_process(export, checkpoint, options.weights, options.block_size, prefix)
    report["generation"] = in_new_process(generate, prefix.with_suffix(".onnx"), report["export"]["embedding_bytes"])
    return report


def write_report(
    options: argparse.Namespace, run: Callable[[argparse.Namespace], dict], show: Callable[[dict], None]
) -> None:
    """Runs in `options.directory`, and writes what came out to `options.output`."""
    options.directory.mkdir(parents=True)  # a new one, because it is removed
    try:
        report = run(options)
    finally:
        shutil.rmtree(options.directory)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output, "w", "utf-8") as file:
        file.write(json.dumps(report, indent=1) + "\n")
    show(report)
    print(f"written: {options.output}")


def in_new_process(work: Callable[..., dict], *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def export(checkpoint: Path, weights: str, block_size: int | None, prefix: Path) -> dict[str, Any]:
    """Writes the step graph: seconds, peak memory, sizes."""
    memory, begin = PeakMemory(), time.perf_counter()
    from glm.checkpoint.read import open_checkpoint
    from glm.config.glm_config import GLMConfig
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import write_step_graph

    config, stored = GLMConfig.from_pretrained(str(checkpoint)), weights_of(weights, block_size)
    parameters = write_step_graph(config, open_checkpoint(checkpoint).tensors(config), stored, prefix)
    return {
        "seconds": time.perf_counter() - begin,
        "peak_memory": memory.growth(),
        "parameters": parameters,
        "block_size": stored.block_size,
        "bytes": sum(file.stat().st_size for file in prefix.parent.glob(f"{prefix.name}.onnx*")),
        "embedding_bytes": stored_bytes(prefix.with_suffix(".onnx"), "model.embed_tokens.weight."),
    }


def stored_bytes(model_file: Path, beginning: str) -> int:
    """Bytes of the weights' file whose names begin so."""
    import onnx

    tensors = onnx.load(model_file, load_external_data=False).graph.initializer
    lengths = [{each.key: each.value for each in t.external_data} for t in tensors if t.name.startswith(beginning)]
    return sum(int(each["length"]) for each in lengths)


def generate(model_file: Path, embedding_bytes: int) -> dict[str, Any]:
    """A prompt and the tokens behind it: start-up, tokens/s, peak memory, and what memory bandwidth would allow."""
    memory, begin = PeakMemory(), time.perf_counter()
    from glm.encoding.batches import TextPositions
    from glm.engine import Engine, GenerationConfig, StopTokens
    from glm.runtime.onnx_step import OnnxStepRuntime

    runtime = OnnxStepRuntime(model_file, CAPACITY)
    loaded = time.perf_counter()
    engine = Engine(runtime, TextPositions(), StopTokens((), 0))
    ids = [token % runtime.vocab_size for token in range(1000, 1000 + PROMPT)]
    tokens, times = [], [time.perf_counter()]
    for token in engine.stream(ids, GenerationConfig(max_length=NEW_TOKENS + 1)):
        tokens.append(token)
        times.append(time.perf_counter())
    first, *steps = (end - start for start, end in pairwise(times))
    peak, cache_bytes = memory.growth(), engine.cache_bytes
    bandwidth = read_rate()
    # Of the embedding a step reads one row; of the cache all.
    read = sum(file.stat().st_size for file in model_file.parent.glob(f"{model_file.name}.data")) - embedding_bytes
    return {
        "load_seconds": loaded - begin,
        "prefill_tokens_per_second": PROMPT / first,
        "tokens_per_second": 1 / statistics.median(steps),
        "best_tokens_per_second": 1 / min(steps),
        "peak_memory": peak,
        "cache_bytes": cache_bytes,
        "bytes_a_token": read + cache_bytes,
        "read_bytes_per_second": bandwidth,
        "limit_tokens_per_second": bandwidth / (read + cache_bytes),
        "tokens": tokens,
    }


def read_rate() -> float:
    """Bytes per second that two threads read together from an array far larger than the caches; the best of some
    runs.
    """
    parts = np.split(np.ones(READ_BYTES // 4, dtype="float32"), 2)
    with ThreadPoolExecutor(2) as cores:
        return READ_BYTES / best(lambda: read_together(parts, cores), READ_RUNS)


def show(report: dict[str, Any]) -> None:
    export, generation = report["export"], report["generation"]
    rows = {
        "checkpoint, bfloat16": in_words(report["checkpoint_bytes"]),
        f"export, blocks of {export['block_size']}": in_words(export["bytes"]),
        **cost_rows(report, PROMPT),
        f"decode, tokens/s (median of {NEW_TOKENS}; best)": f"{generation['tokens_per_second']:.2f}; "
        f"{generation['best_tokens_per_second']:.2f}",
        **limit_rows(generation),
        "decode, of that": f"{generation['tokens_per_second'] / generation['limit_tokens_per_second']:.0%}",
    }
    print_rows(f"GLM-4-9B's shapes, {report['weights']}", rows)


def cost_rows(report: dict[str, Any], prompt: int) -> dict[str, str]:
    """What export and generation took, and how fast a prompt was read."""
    export, generation = report["export"], report["generation"]
    return {
        "export, seconds": f"{export['seconds']:.0f}",
        "export, peak memory": in_words(export["peak_memory"]),
        "generation, peak memory": in_words(generation["peak_memory"]),
        "load, seconds": f"{generation['load_seconds']:.1f}",
        f"prefill of {prompt} tokens, tokens/s": f"{generation['prefill_tokens_per_second']:.1f}",
    }


def limit_rows(generation: dict[str, Any]) -> dict[str, str]:
    limit = f"{generation['limit_tokens_per_second']:.2f}"
    rate = in_words(generation["read_bytes_per_second"])
    return {"memory bandwidth, and what it allows, tokens/s": f"{rate}/s; {limit}"}


def print_rows(title: str, rows: Mapping[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

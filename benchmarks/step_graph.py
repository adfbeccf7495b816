"""How fast an export's decoder step graph is: its prompts, and steps of one row and of several.

    python -m benchmarks.step_graph --model_path checkpoints/standard
    .venv-fastdeploy/bin/python -m benchmarks.step_graph --model_path checkpoints/standard --backend fastdeploy

One export in one runtime; run it for each form of a model that is to be compared. Times are medians, on a machine that
does nothing else.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import glm
from glm.device.tuning import usable_cores
from glm.encoding.batches import Positions
from glm.errors import GLMError
from glm.inference.exported import ExportOptions, find_export
from glm.runtime import StepRuntime

ROWS = (1, 4, 8)


def prompt_seconds(runtime: StepRuntime, positions: Positions, ids: Sequence[int], rounds: int) -> float:
    """Of a prompt that is read at once."""
    cache, prefix = runtime.new_cache(1, len(ids)), positions.prompt_prefix(ids)
    places = positions.of(ids, prefix)
    return _median(lambda: runtime.prefill(cache, 0, ids, places, 0, prefix), rounds)


def step_seconds(runtime: StepRuntime, positions: Positions, ids: Sequence[int], rows: int, rounds: int) -> float:
    """Of one token more in each of several rows, behind the same prompt; the cache has room for as many again."""
    cache, prefix = runtime.new_cache(rows, 2 * len(ids)), positions.prompt_prefix(ids)
    places = positions.of(ids, prefix)
    runtime.prefill(cache, 0, ids, places, 0, prefix)
    runtime.copy(cache, range(1, rows), cache, [0] * (rows - 1), (0, len(ids)))
    tokens, lengths = np.full([rows], ids[-1]), np.full([rows], len(ids))
    following = np.repeat((places[:, -1] + positions.step)[None], rows, axis=0)
    return _median(lambda: runtime.decode(cache, tokens, following, lengths), rounds)


def _median(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])  # the first one allocates


def prompt_of(positions: Positions, processor, length: int, vocabulary: int) -> list[int]:
    """So many tokens between those that every prompt begins and ends with."""
    ids = processor.text_prompt("a")
    middle = np.random.default_rng(0).integers(vocabulary // 2, vocabulary * 3 // 4, max(0, length - len(ids)))
    return [*ids[:1], *middle.tolist(), *ids[1:]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True, help="directory of the export")
    parser.add_argument("--model_prefix", default="glm", help="name of the export in that directory")
    parser.add_argument("--backend", help="what runs it; default: the fastest")
    parser.add_argument("--cpu_threads", type=int, default=usable_cores(), help="threads on the CPU")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=30, help="of each measurement")
    options = parser.parse_args(arguments)
    glm.tune()  # as the scripts
    try:
        wanted = ExportOptions(
            options.model_path, options.model_prefix, options.backend, "cpu", cpu_threads=options.cpu_threads
        )
        found = find_export(wanted)
        processor = found.processor()
        runtime = found.open_step(processor)
        ids = prompt_of(processor.positions, processor, options.prompt, found.manifest.vocab_size)
        table = Table(title=f"{found.choice.name}, {form(found.manifest)}, {options.cpu_threads} threads")
        for heading in ("", "ms", "tokens/s"):
            table.add_column(heading, justify="right" if heading else "left")
        seconds = prompt_seconds(runtime, processor.positions, ids, options.rounds)
        table.add_row(f"prompt of {len(ids)} tokens", f"{1e3 * seconds:.2f}", f"{len(ids) / seconds:.1f}")
        for rows in ROWS:
            seconds = step_seconds(runtime, processor.positions, ids, rows, options.rounds)
            table.add_row(f"step of {rows} rows", f"{1e3 * seconds:.2f}", f"{rows / seconds:.1f}")
    except GLMError as error:
        print(f"benchmarks.step_graph: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


def form(manifest) -> str:
    return f"{manifest.weights}, " + (f"opset {manifest.opset}" if manifest.opset else manifest.format)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

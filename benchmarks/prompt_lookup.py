"""What prompt lookup costs and gains with an export: calls for 1 to 9 tokens, and texts with and without guesses.

    python -m benchmarks.prompt_lookup --model_path checkpoints/infer --input_file sources.txt

Prompts are lines of the file, else two of its own. Times are medians, on a machine that does nothing else.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import glm
from glm.device.tuning import usable_cores
from glm.encoding.batches import Positions
from glm.engine import Engine, EngineOptions, GenerationConfig, Request, StopTokens
from glm.errors import GLMError
from glm.inference.exported import ExportOptions, open_export
from glm.runtime import StepRuntime

OWN = (
    "云溪桥建于1920年，长30米，是石桥。把这句话再说一遍：",
    "Repeat the following, word for word: the bridge was built in 1920, and it is made of stone.",
)


@dataclass(frozen=True)
class Texts:
    """Texts of all prompts, written one after another.

    Attributes:
        tokens: of all. same: prompts whose text is the same with and without guesses.
        plain, guessed: seconds without and with guesses, medians of the rounds.
        right, of: guessed tokens that were right, and all guessed ones.
    """

    tokens: int
    prompts: int
    same: int
    plain: float
    guessed: float
    right: int
    of: int


def call_seconds(
    runtime: StepRuntime, positions: Positions, ids: Sequence[int], most: int, rounds: int
) -> dict[int, float]:
    """Seconds of a call that reads 1 … `most` tokens behind a context, and gives the logits of all of them."""
    cache, prefix = runtime.new_cache(1, len(ids) + most), positions.prompt_prefix(ids)
    positions_PT = positions.of(ids, prefix)
    runtime.prefill(cache, 0, ids, positions_PT, 0, prefix)
    found = {}
    for count in range(1, most + 1):
        following = positions_PT[:, -1:] + np.arange(1, count + 1) * positions.step[:, None]
        times = []
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            runtime.read(cache, 0, [*ids[:count]], following, len(ids), 0, range(count))
            times.append(time.perf_counter() - begin)
        found[count] = statistics.median(times[1:])  # the first one allocates
    return found


def texts(
    runtime: StepRuntime,
    positions: Positions,
    stop: StopTokens,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    most: int,
    rounds: int,
) -> Texts:
    """Writes each prompt's text with guesses of `most` tokens and without, in turns."""
    engines = [Engine(runtime, positions, stop, EngineOptions(reuse_prefix=False, prompt_lookup=n)) for n in (0, most)]
    seconds, written = ([], []), ([], [])
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for place, engine in enumerate(engines):
            begin = time.perf_counter()
            written[place][:] = [engine.finish([Request(ids, config)])[0].tokens for ids in prompts]
            seconds[place].append(time.perf_counter() - begin)
    stats = engines[1].core.stats()
    return Texts(
        tokens=sum(map(len, written[0])),
        prompts=len(prompts),
        same=sum(one == other for one, other in zip(*written, strict=True)),
        plain=statistics.median(seconds[0]),
        guessed=statistics.median(seconds[1]),
        right=stats.accepted_tokens,
        of=stats.draft_tokens,
    )


def tables(calls: dict[int, float], found: Texts, most: int) -> list[Table]:
    cost = Table(title="a call for several tokens")
    for heading in ("tokens", "ms", "of one token's"):
        cost.add_column(heading, justify="right")
    for count, seconds in calls.items():
        cost.add_row(str(count), f"{1e3 * seconds:.2f}", f"{seconds / calls[1]:.2f}")
    gain = Table(title=f"{found.prompts} texts, {found.same} of them the same with guesses")
    for heading in ("prompt lookup", "tokens/s", "guessed tokens right"):
        gain.add_column(heading, justify="right")
    gain.add_row("off", f"{found.tokens / found.plain:.1f}", "")
    gain.add_row(str(most), f"{found.tokens / found.guessed:.1f}", f"{found.right} of {found.of}")
    return [cost, gain]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True, help="directory of the export")
    parser.add_argument("--model_prefix", default="glm", help="name of the export in that directory")
    parser.add_argument("--backend", help="what runs it; default: the fastest")
    parser.add_argument("--input_file", type=Path, help="prompts, one a line")
    parser.add_argument("--prompt_lookup", type=int, default=8, help="most tokens of a guess")
    parser.add_argument("--tgt_length", type=int, default=128, help="tokens of a text")
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement")
    options = parser.parse_args(arguments)
    glm.tune()  # as the scripts
    try:
        wanted = ExportOptions(
            options.model_path,
            options.model_prefix,
            options.backend,
            cpu_threads=usable_cores(),
            lengths=(None, options.tgt_length),
            streams=True,
        )
        generator, choice = open_export(wanted)
        processor, runtime = generator.processor, generator.engine.runtime
        lines = options.input_file.read_text("utf-8").splitlines() if options.input_file else OWN
        prompts = [processor.text_prompt(line) for line in lines if line.strip()]
        config = GenerationConfig(options.tgt_length)
        stop = StopTokens.of(processor)
        calls = call_seconds(runtime, processor.positions, prompts[0], 9, 4 * options.rounds)
        found = texts(runtime, processor.positions, stop, prompts, config, options.prompt_lookup, options.rounds)
    except (GLMError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(choice)
    for table in tables(calls, found, options.prompt_lookup):
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

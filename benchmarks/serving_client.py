"""Load for any server with OpenAI's interface, and how it bears it: throughput, TTFT, TPOT, ITL as vLLM defines them.

    python -m benchmarks.serving_client --base_url http://127.0.0.1:8000 --clients 16 --requests 64
    python -m benchmarks.serving_client --base_url … --rate 2 --goodput ttft:500 tpot:50
    python -m benchmarks.serving_client --base_url … --clients 8 --long_prompt 2000

A closed loop has so many clients, each of which asks again once it is answered. With --rate requests come by
themselves, at random moments (Poisson), and --clients is the most that are open at a time. With --long_prompt, prompts
of so many tokens arrive among the others, and how long their texts stand still meanwhile is told. The answers' texts
are thrown away.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving_load import Endpoint, Load, Prompt, drive, first_model
from benchmarks.serving_times import KINDS, Pause
from glm.errors import GLMError, UsageError
from glm.files.atomic import write_json

# For prompts of words: about a token each.
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


def random_ids(vocabulary: tuple[int, int], count: int, length: int, seed: int) -> list[list[int]]:
    """Prompts of random ids of a range, the second one left out."""
    return np.random.default_rng(seed).integers(*vocabulary, [count, length]).tolist()


def random_words(count: int, length: int, seed: int) -> list[str]:
    """Prompts of random English words."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, length)) for _ in range(count)]


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        found = measure(options)
        if options.output:
            write_json(options.output, found)
    except (GLMError, OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    show(found, console)
    return int(bool(found["failed"]))


def measure(options: argparse.Namespace) -> dict:
    """Raises UsageError for flags that contradict each other, GLMError for a server that is none."""
    load = Load(
        options.requests,
        options.clients or (None if options.rate else 1),
        options.rate,
        options.burstiness,
        options.tokens,
        options.long_requests if options.long_prompt else 0,
        options.seed,
    )
    limits = limits_of(options.goodput)
    prompts, long_prompts = prompts_of(options, load)
    extra = fields_of(options.extra) | ({"ignore_eos": True} if options.ignore_eos else {})
    model = options.model or asyncio.run(first_model(options.base_url, options.api_key))
    endpoint = Endpoint(options.base_url, model, options.chat, options.api_key, extra, options.timeout)
    from tqdm import tqdm

    with tqdm(total=load.requests, desc="load", unit=" requests", leave=False) as bar:
        outcome = asyncio.run(drive(endpoint, load, prompts, long_prompts, bar.update))
    return {"url": endpoint.url, "model": model, "load": asdict(load)} | outcome.summary(limits)


def fields_of(text: str) -> dict:
    """Raises UsageError where a text is no JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"--extra {text} must be a JSON object, such as '{{\"top_k\": 1}}'")
    return found


def prompts_of(options: argparse.Namespace, load: Load) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts of the load, and long ones."""
    ids = tuple(options.vocabulary) if options.vocabulary else None
    if ids and options.chat:
        raise UsageError("--vocabulary gives prompts as ids, which /v1/chat/completions does not take: leave one out")

    def made(count: int, length: int, seed: int) -> list[Prompt]:
        return random_ids(ids, count, length, seed) if ids else random_words(count, length, seed)

    long = made(load.long_requests, options.long_prompt, options.seed + 1)
    if options.input_file is None:
        return made(load.requests, options.prompt_tokens, options.seed), long
    lines = [line for line in options.input_file.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{options.input_file} has no prompts: write one a line")
    return [lines[place % len(lines)] for place in range(load.requests)], long


def limits_of(words: Sequence[str]) -> dict[str, float]:
    """Seconds by kind, of words such as ttft:500."""
    kinds, found = [kind for kind in KINDS if kind != "itl"], {}
    for word in words:
        kind, _, value = word.partition(":")
        try:
            found[kind] = float(value) / 1e3
        except ValueError:
            kind = ""
        if kind not in kinds:
            raise UsageError(f"--goodput {word} must be KIND:MILLISECONDS, KIND one of {', '.join(kinds)}")
    return found


def show(found: dict, console: Console) -> None:
    """Tables of a summary."""
    for title, rows in sections(found):
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if found["failed"]:
        console.print(f"FAILED: {found['failed']}, the first: {found['error']}", markup=False)


def sections(found: dict) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    if found["requests"]:
        rows = [("requests answered", str(found["requests"])), ("seconds", f"{found['seconds']:.2f}")]
        rows += [("requests/s", f"{found['request_throughput']:.2f}")]
        rows += [("output tokens/s", f"{found['output_throughput']:.1f}")]
        rows += [("goodput, requests/s", f"{found['goodput']:.2f}")] if "goodput" in found else []
        for kind in KINDS:
            values = found.get(kind, {})
            rows += [(f"{kind.upper()} {share}, ms", f"{1e3 * value:.1f}") for share, value in values.items()]
        yield f"{found['model']} at {found['url']}", rows
    if "pause" in found:
        yield "while a long prompt was read", pause_rows(Pause(**found["pause"]))


def pause_rows(pause: Pause) -> list[tuple[str, str]]:
    def shown(seconds: float | None) -> str:
        return "none came" if seconds is None else f"{1e3 * seconds:.1f}"

    return [
        ("gap between chunks outside of it, median, ms", shown(pause.usual)),
        ("longest gap, ms", f"{shown(pause.longest)} ({pause.longest / pause.usual:.1f} ×)"),
        ("TTFT of the other prompts meanwhile, median, ms", shown(pause.short_ttft)),
        ("TTFT of the other prompts otherwise, median, ms", shown(pause.short_ttft_outside)),
        ("TTFT of the long prompt, ms", shown(pause.long_ttft)),
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving_client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_server(parser.add_argument_group("server"))
    add_load(parser.add_argument_group("load"))
    parser.add_argument("--goodput", nargs="+", default=[], metavar="KIND:MS", help="limits: ttft, tpot, e2el")
    parser.add_argument("--output", type=Path, help="JSON file with every figure")
    return parser.parse_args(arguments)


def add_server(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--base_url", required=True, help="such as http://127.0.0.1:8000, with or without /v1")
    group.add_argument("--model", help="default: the first of /v1/models")
    group.add_argument("--chat", action="store_true", help="/v1/chat/completions instead of /v1/completions")
    group.add_argument("--api_key", help="sent as Bearer")
    group.add_argument("--ignore_eos", action="store_true", help="texts go on to their full length (vLLM's field)")
    group.add_argument("--extra", default="{}", help="JSON object of further fields of each request")
    group.add_argument("--timeout", type=float, default=600, help="seconds until a request is given up")


def add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--requests", type=int, default=32, help="default: %(default)s")
    group.add_argument("--clients", type=int, help="closed loop of so many; with --rate, most at a time; default: 1")
    group.add_argument("--rate", type=float, help="requests a second that come by themselves")
    group.add_argument("--burstiness", type=float, default=1.0, help="shape of the gaps' gamma; 1 = Poisson")
    group.add_argument("--tokens", type=int, default=64, help="of each answer; default: %(default)s")
    group.add_argument("--prompt_tokens", type=int, default=128, help="of each prompt, or words; default: %(default)s")
    group.add_argument(
        "--vocabulary", type=int, nargs=2, metavar=("FIRST", "END"), help="prompts are random ids of this range"
    )
    group.add_argument("--input_file", type=Path, help="prompts, one a line, instead of random words")
    group.add_argument("--long_prompt", type=int, default=0, help="tokens of prompts that come among the others")
    group.add_argument("--long_requests", type=int, default=2, help="how many of them; default: %(default)s")
    group.add_argument("--seed", type=int, default=0, help="of prompts and moments")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

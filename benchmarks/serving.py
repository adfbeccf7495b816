"""Servers of several sides under the same load, in turns, and how long they take until they are ready. Imports no
framework.
"""

import asyncio
import time
import zlib
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.processes import Environment, Result
from benchmarks.servers import Server, open_server
from benchmarks.serving_client import random_ids
from benchmarks.serving_load import Endpoint, Load, drive, first_model
from benchmarks.settings import (
    QUICK_SHAPES,
    SEED,
    SERVED_RUNS,
    SETTLE,
    SHAPES,
    SIDES,
    SLOW_SECONDS,
    TASKS,
    Shape,
    Side,
    Traffic,
)
from glm.errors import GLMError

if TYPE_CHECKING:
    from benchmarks.plan import Act, Measured, Plan, Tell

# A server that dies, or answers with what is no answer, is that round's error, and ends no other round.
_ENDED = (GLMError, OSError, aiohttp.ClientError, asyncio.TimeoutError, LookupError, ValueError)
LOWEST_ID = 5  # of a prompt: those below are the ends of texts


def serve(plan: "Plan", act: "Act", environment: Environment, measured: "Measured", tell: "Tell") -> None:
    """Opens every side's server; in each round each side of a task bears its load once, the same for all."""
    servers: dict[str, Server] = {}
    shape = (QUICK_SHAPES if plan.quick else SHAPES)[act.shape]
    try:
        for side in act.sides:
            tell(f"starting {SIDES[side].title}", 0)
            opened, measured.opened[act.shape, side] = started(environment, side, act.shape, shape)
            servers |= {side: opened} if opened else {}
        for task, sides in act.tasks.items():
            key = act.shape, task
            rounds(plan, key, shape, {side: servers.get(side) for side in sides}, measured, tell)
            tell("", 1)
    finally:
        for server in servers.values():
            server.close()


def started(environment: Environment, side: str, name: str, shape: Shape) -> tuple[Server | None, Result]:
    """A server that has answered once already, or None with the reason."""
    try:
        server = open_server(environment, side, name)
    except RuntimeError as error:
        return None, {"error": str(error)}
    warm = bear(server, SIDES[side], shape, Traffic(1, (1, 1)), seed=SEED)
    if "error" in warm:
        server.close()
        return None, warm
    return server, {"settings": {"command": " ".join(map(str, server.process.args))}}


def rounds(
    plan: "Plan",
    key: tuple[str, str],
    shape: Shape,
    servers: dict[str, Server | None],
    measured: "Measured",
    tell: "Tell",
) -> None:
    """A round is a run of each side; one that is slow has one run, one that fails no other."""
    name, task = key
    for number in range(1 if plan.quick else min(plan.runs, SERVED_RUNS)):
        for side, server in servers.items():
            runs = measured.runs.setdefault((name, task, side), [])
            if runs and (number > len(runs) or "error" in runs[-1] or runs[0]["seconds"] > SLOW_SECONDS):
                continue
            if server is None:
                runs.append({"error": measured.opened[name, side]["error"]})
                continue
            tell(f"{name} {task}, run {number + 1}, {SIDES[side].title}", 0)
            time.sleep(0.0 if plan.quick else SETTLE)
            runs.append(bear(server, SIDES[side], shape, TASKS[task].traffic, seed_of(task, number)))


def seed_of(task: str, number: int) -> int:
    """Of the prompts of a round: a server of a former task keeps what it read, llama.cpp's even beside its slots."""
    return zlib.crc32(f"{SEED} {task} {number}".encode())


def bear(server: Server, side: Side, shape: Shape, traffic: Traffic, seed: int) -> Result:
    """A run: the summary of a load (benchmarks/serving_load.py); another seed has other prompts, so that no server
    knows them.
    """
    tokens = shape.new_tokens
    count = traffic.requests[side.one_by_one]
    load = Load(count, traffic.clients or None, traffic.rate or None, tokens=tokens, seed=seed)
    vocabulary = LOWEST_ID, shape.config["vocab_size"]
    prompts = random_ids(vocabulary, count, shape.prompt, seed)
    long = random_ids(vocabulary, traffic.long_requests, shape.long_prompt, -seed % 2**32)

    async def run() -> dict:
        model = await first_model(server.url)
        endpoint = Endpoint(server.url, model, extra={"ignore_eos": True})
        return (await drive(endpoint, load, prompts, long)).summary()

    try:
        found = asyncio.run(run())
    except _ENDED as error:
        return {"error": f"the server did not answer: {type(error).__name__}: {' '.join(str(error).split())}"}
    if found["failed"]:
        return {"error": f"{found['failed']} of {count} requests failed, the first: {found['error']}"}
    if traffic.long_requests and "pause" not in found:
        return {"error": "no text was written while a long prompt was read"}
    return found


def ready(environment: Environment, side: str, shape: str) -> Result:
    """Seconds from a fresh server's start until it can be asked."""
    try:
        server = open_server(environment, side, shape)
    except RuntimeError as error:
        return {"error": str(error)}
    server.close()
    return {"seconds": server.ready_seconds}

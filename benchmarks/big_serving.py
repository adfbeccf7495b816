"""GLM-4-9B's shapes behind this project's server on a small machine: one stream, and two at once.

    python -m benchmarks.big_serving --directory /somewhere/with/30/GB/free

Writes 19 GB of random bfloat16 weights (benchmarks/big_checkpoint.py), exports them with few bits per weight, serves
the export, and asks for texts of one client and of two. A step reads all weights once, however many texts it goes on
with, so two streams may have twice the tokens/s that memory bandwidth allows one. Everything but the JSON file is
removed at the end.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.big_export import LAYERS, VOCABULARY, in_new_process, read_rate, stored_bytes
from benchmarks.processes import clean_environment
from benchmarks.servers import Server, free_port
from benchmarks.serving_client import random_ids
from benchmarks.serving_load import Endpoint, Load, drive
from glm.errors import GLMError
from glm.files.atomic import write_json
from glm.files.sizes import in_words

STREAMS, PROMPT, NEW_TOKENS, ROUNDS = (1, 2), 128, 32, 3
COLUMNS = 256


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        options.directory.mkdir(parents=True)  # a new one, because it is removed
    except OSError as error:
        print(f"benchmarks.big_serving: {options.directory} cannot be made ({error.strerror})", file=sys.stderr)
        return 1
    try:
        report = run(options)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.output, report)
    except (GLMError, RuntimeError, OSError) as error:
        print(f"benchmarks.big_serving: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(options.directory)
    show(report)
    print(f"written: {options.output}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_serving", description=__doc__, formatter_class=form)
    parser.add_argument("--directory", type=Path, required=True, help="a new directory; removed at the end")
    parser.add_argument("--checkpoint", type=Path, help="one that is there already, which is kept")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer for a quick look")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="the same")
    parser.add_argument("--weights", choices=("int8", "int4"), default="int4", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/big_serving.json"), help="default: %(default)s")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All steps; the export is made by a process of its own, whose memory is free again."""
    checkpoint, prefix = options.checkpoint or options.directory / "checkpoint", options.directory / "export" / "glm"
    if options.checkpoint is None:
        from benchmarks.big_checkpoint import make

        make(checkpoint, options.layers, options.vocabulary)
    report = {"layers": options.layers, "vocabulary": options.vocabulary, "weights": options.weights}
    report |= in_new_process(export, checkpoint, options.weights, prefix)
    report["read_bytes_per_second"] = read_rate()
    report |= serve(prefix, options.vocabulary, options.directory / "server.log")
    report["read_bytes_per_second"] = max(report["read_bytes_per_second"], read_rate())
    for load in report["loads"]:
        # The texts' keys and values are read besides, all that there are columns for.
        bytes_a_step = report["weight_bytes"] + report["cache_bytes_a_row"] * load["streams"]
        load["limit"] = load["streams"] * report["read_bytes_per_second"] / bytes_a_step
    return report


def export(checkpoint: Path, weights: str, prefix: Path) -> dict[str, Any]:
    """Writes an export that can be served; the bytes of the weights that a step reads."""
    from benchmarks.prepare import write_text
    from glm.checkpoint.read import open_checkpoint
    from glm.config.glm_config import GLMConfig
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import export_step_graph

    config = GLMConfig.from_pretrained(str(checkpoint))
    prefix.parent.mkdir()
    export_step_graph(
        config,
        open_checkpoint(checkpoint).tensors(config),
        weights_of(weights, None),
        prefix,
        source="random weights",
        text=lambda staging: write_text(config, staging),
    )
    whole = prefix.with_name(f"{prefix.name}.onnx.data").stat().st_size
    # Of the embedding a step reads one row.
    read = whole - stored_bytes(prefix.with_suffix(".onnx"), "model.embed_tokens.weight.")
    heads = config.num_key_value_heads * config.head_dim
    return {"weight_bytes": read, "cache_bytes_a_row": 4 * 2 * config.num_hidden_layers * heads * COLUMNS}


def serve(prefix: Path, vocabulary: int, log: Path) -> dict[str, Any]:
    """Seconds until the server is ready, and its tokens/s with so many streams."""
    port, rows = free_port(), max(STREAMS)
    command = [sys.executable, "serve_generation.py", "--model_path", prefix.parent, "--max_num_seqs", rows]
    command += ["--max_model_len", COLUMNS, "--port", port]
    server = Server([str(word) for word in command], port, "/ready", log, clean_environment(os.environ))
    try:
        loads = [bear(server.url, streams, vocabulary) for streams in STREAMS]
    finally:
        server.close()
    return {"ready_seconds": server.ready_seconds, "loads": loads}


def bear(url: str, streams: int, vocabulary: int) -> dict[str, Any]:
    """The figures of a number of streams, with the tokens/s of their decoding alone: streams / TPOT."""
    load = Load(streams * ROUNDS, clients=streams, tokens=NEW_TOKENS)
    prompts = random_ids((5, vocabulary - 20), load.requests, PROMPT, seed=streams)
    endpoint = Endpoint(url, "glm", extra={"ignore_eos": True}, timeout=3600)
    outcome = asyncio.run(drive(endpoint, load, prompts))
    found = outcome.summary()
    if found["failed"]:
        raise GLMError(f"{found['failed']} requests failed, the first: {found['error']}")
    gap = median(gap for reply in outcome.replies for gap in reply.gaps)
    return found | {"streams": streams, "decode": streams / gap}


def show(report: dict[str, Any]) -> None:
    size, rate = in_words(report["weight_bytes"]), in_words(report["read_bytes_per_second"])
    title = f"GLM-4-9B's shapes, {report['weights']}: a step reads {size} at {rate}/s at most"
    table = Table("streams", "decode, tokens/s", "limit", "of it", title=title, title_justify="left")
    for column in ("output tokens/s", "TTFT p50, s", "ITL p50, p99, ms"):
        table.add_column(column, justify="right")
    for load in report["loads"]:
        gaps = f"{1e3 * load['itl']['p50']:.0f}, {1e3 * load['itl']['p99']:.0f}"
        cells = [f"{load['decode']:.2f}", f"{load['limit']:.2f}", f"{load['decode'] / load['limit']:.0%}"]
        cells += [f"{load['output_throughput']:.2f}", f"{load['ttft']['p50']:.2f}", gaps]
        table.add_row(str(load["streams"]), *cells)
    Console(width=110).print(table)
    print(f"start to ready: {report['ready_seconds']:.1f} s")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server is ended, too
    sys.exit(main(sys.argv[1:]))

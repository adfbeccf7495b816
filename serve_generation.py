"""Serves an exported GLM as OpenAI's clients expect it, and a page to talk to."""

import argparse
import os
import signal
import sys
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.export_flags import add_export_arguments, add_runtime_arguments, export_options
from glm.cli.script import ScriptParser, add_thinking_argument, run_script, size
from glm.errors import UsageError
from glm.runtime import BACKENDS

DESCRIPTION = """\
Serve an exported GLM, ChatGLM-6B, GLM-4-9B or GLM-4-0414 over HTTP, as OpenAI's clients expect it.

  python serve_generation.py --model_path checkpoints/infer --model_prefix glm     then http://127.0.0.1:8000, a page
  python serve_generation.py … --max_num_seqs 16 --max_model_len 4096              more texts at once, of 4,096 tokens
  python serve_generation.py … --host 0.0.0.0 --api_key_file keys.txt              for others, who need a key
  curl http://127.0.0.1:8000/v1/models                                             /v1 for any OpenAI client"""
KEY_VARIABLE = "GLM_API_KEY"


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    add_export_arguments(parser)
    parser.add_argument(
        "--served_model_name", nargs="+", help="what requests call the model, aliases behind; default: --model_prefix"
    )
    add_thinking_argument(parser)
    add_address(parser)
    add_engine(parser)
    add_limits(parser)
    return parser.parse_args()


def add_address(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("address and access")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    group.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes one that is free")
    group.add_argument(
        "--api_key", action="append", default=[], help=f"a key that requests may have; repeatable; also ${KEY_VARIABLE}"
    )
    group.add_argument("--api_key_file", type=Path, help="file of such keys, one a line")
    group.add_argument(
        "--cors_origin", action="append", default=[], help="origin of web pages that may call; repeatable; * is all"
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    add_runtime_arguments(group, list(BACKENDS))
    group.add_argument("--max_num_seqs", type=int, help="texts that are written at once; default: 8, or what fits")
    group.add_argument(
        "--max_model_len", type=int, help="most tokens of one prompt and its text; default: the model's, or what fits"
    )
    group.add_argument(
        "--kv_cache_size", type=size, help="most key/value cache, such as 2GiB; default: 80%% of free memory"
    )
    group.add_argument(
        "--fixed_chunks", action="store_true", help="read prompts in parts of one size, so that every run reads alike"
    )
    group.add_argument(
        "--prompt_lookup",
        type=int,
        default=0,
        help="most tokens guessed from what a text had before, while it is alone; it stays the same; 0 = off",
    )
    group.add_argument("--no_prefix_reuse", action="store_true", help="read every prompt whole: timing tells nothing")


def add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--max_queue", type=int, default=256, help="texts that may wait; more are answered with 429")
    group.add_argument("--max_n", type=int, default=8, help="most texts of one prompt")
    group.add_argument("--max_body", type=size, default=16 << 20, help="most bytes of a request")
    group.add_argument(
        "--ping_seconds", type=float, default=15, help="silence after which a stream has a comment; 0 = never"
    )
    group.add_argument(
        "--heartbeat_timeout", type=float, default=30, help="seconds without an engine's step until /health says 503"
    )
    group.add_argument(
        "--shutdown_timeout", type=float, default=30, help="seconds that texts have to be finished after SIGTERM"
    )


def keys_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The keys of flags, file and environment."""
    keys = [*arguments.api_key]
    if arguments.api_key_file is not None:
        keys += arguments.api_key_file.read_text("utf-8").split()
        if not keys:
            raise UsageError(f"{arguments.api_key_file} has no key: write one a line")
    keys += os.environ.get(KEY_VARIABLE, "").split()
    if any(not key.strip() for key in keys):
        raise UsageError("--api_key is empty: leave it out, or give a key")
    return tuple(dict.fromkeys(keys))


def main() -> None:
    arguments = parse()
    keys = keys_of(arguments)

    from glm.serving.export_service import ServeOptions, open_service
    from glm.serving.server import Address, run_server
    from glm.serving.service import Settings

    settings = Settings(
        keys=keys,
        origins=tuple(arguments.cors_origin),
        max_body=arguments.max_body,
        max_n=arguments.max_n,
        ping_seconds=arguments.ping_seconds or None,
        heartbeat_seconds=arguments.heartbeat_timeout,
    )
    options = ServeOptions(
        export=export_options(arguments),
        names=tuple(arguments.served_model_name or ()),
        rows=arguments.max_num_seqs,
        max_length=arguments.max_model_len,
        reuse_prefix=not arguments.no_prefix_reuse,
        fixed_chunks=arguments.fixed_chunks,
        prompt_lookup=arguments.prompt_lookup,
        max_queue=arguments.max_queue,
        enable_thinking=arguments.enable_thinking,
    )
    # The default would leave the engine behind; an exit ends it, and later uvicorn has a handler of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    service = open_service(options, settings)
    address = Address(arguments.host, arguments.port)
    run_server(service, address, arguments.shutdown_timeout, say=lambda line: print(line, file=sys.stderr, flush=True))


if __name__ == "__main__":
    run_script(main)

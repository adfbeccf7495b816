"""A checkpoint with GLM-4-9B's true shapes: converted both ways, compared bit for bit, and read as a rank reads it.

    python -m benchmarks.big_checkpoint --directory /somewhere/with/45/GB/free

19 GB of random, finite bfloat16 numbers are written and everything is removed at the end. No Paddle computation.
"""

import argparse
import json
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import glm
from benchmarks.made_weights import ROWS, SHARD, made_tensors, write_shards
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.checkpoint.peak_memory import PeakMemory
from glm.checkpoint.read import open_checkpoint
from glm.config.glm_config import GLMConfig
from glm.errors import GLMError
from glm.files.sizes import in_words

glm.tune()  # as the scripts

# config.json of THUDM/glm-4-9b-chat, as far as it says something about shapes and meaning.
CONFIG = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 40,
    "rope_ratio": 500,
    "original_rope": True,
    "padded_vocab_size": 151552,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "eos_token_id": [151329, 151336, 151338],
    "pad_token_id": 151329,
}


@dataclass(frozen=True)
class Step:
    """A row of the table; sizes in bytes."""

    name: str
    size: int
    seconds: float
    peak_memory: int


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_checkpoint", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="a new directory; removed at the end")
    parser.add_argument("--layers", type=int, default=CONFIG["num_layers"], help="fewer for a quick look")
    parser.add_argument("--vocabulary", type=int, default=CONFIG["padded_vocab_size"], help="the same")
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True)
    try:
        print_steps(run(options.directory, options.layers, options.vocabulary))
    finally:
        shutil.rmtree(options.directory)


def run(directory: Path, layers: int, vocabulary: int) -> list[Step]:
    """All steps; never more than two copies of the model are on the disk."""
    names = ("remote", "paddle-2", "remote-2", "paddle-1", "hf", "remote-1", "mcore", "remote-4")
    places = {name: directory / name for name in names}
    steps = [measured("make the remote-code checkpoint", lambda: make(places["remote"], layers, vocabulary))]
    wanted = digests(places["remote"])

    def convert(source: str, target: str, form: str, degree: int = 1, stages: int = 1) -> None:
        job = Conversion(places[source], places[target], form, degree=degree, stages=stages, max_shard_size=SHARD)
        report = convert_checkpoint(job, show_bar=True)
        title = f"{source} → {target}" + (f", {degree} ranks" if degree > 1 else "")
        title += f" of {stages} stages" if stages > 1 else ""
        steps.append(Step(title, report.written, report.seconds, report.peak_memory))
        if form == "remote":
            require_equal(digests(places[target]), wanted, title)
        if source != "remote-2" or target != "paddle-1":
            shutil.rmtree(places[source])

    convert("remote", "paddle-2", "paddle", 2)
    convert("paddle-2", "remote-2", "remote")
    steps += [measured(f"read as rank 1 of {n}", lambda n=n: read(places["remote-2"], 1, n)) for n in (2, 4)]
    convert("remote-2", "paddle-1", "paddle")
    shutil.rmtree(places["remote-2"])
    convert("paddle-1", "hf", "hf")
    convert("hf", "remote-1", "remote")
    convert("remote-1", "mcore", "mcore", 2, 1 if layers % 2 else 2)
    convert("mcore", "remote-4", "remote")
    return steps


def measured(name: str, work: Callable[[], int]) -> Step:
    memory, begin = PeakMemory(), time.perf_counter()
    size = work()
    return Step(name, size, time.perf_counter() - begin, memory.growth())


def make(directory: Path, layers: int, vocabulary: int) -> int:
    """Write the checkpoint in shards with an index, as the hub has it; gives its size in bytes."""
    directory.mkdir()
    changes = {"num_layers": layers, "num_hidden_layers": layers, "padded_vocab_size": vocabulary}
    (directory / "config.json").write_text(json.dumps(CONFIG | changes, indent=2), encoding="utf-8")
    return write_shards(directory, made_tensors(GLMConfig.from_pretrained(str(directory))))


def digests(directory: Path) -> dict[str, int]:
    """A checksum of every tensor, by stored name."""
    file, found = open_checkpoint(directory).ranks[0], {}
    for name in file:
        shape, checksum = file.shape(name), 0
        for start in range(0, shape[0], ROWS):
            rows = slice(start, min(start + ROWS, shape[0]))
            block = file.read(name, (rows, *(slice(0, size) for size in shape[1:])))
            checksum = zlib.crc32(np.ascontiguousarray(block).view(np.uint8), checksum)
        file.release()
        found[name] = checksum
    return found


def require_equal(found: dict[str, int], wanted: dict[str, int], title: str) -> None:
    different = sorted(name for name in wanted.keys() | found.keys() if found.get(name) != wanted.get(name))
    if different:
        raise GLMError(f"{title}: {len(different)} tensors differ, the first is {different[0]}")


def read(directory: Path, rank: int, degree: int) -> int:
    """Read what one rank holds, and keep one tensor at a time; gives the bytes."""
    config = GLMConfig.from_pretrained(str(directory))
    return sum(array.nbytes for _, array in open_checkpoint(directory).tensors(config, rank=rank, degree=degree))


def print_steps(steps: list[Step]) -> None:
    table = Table(title="a checkpoint of GLM-4-9B's shapes; every round trip is bit-identical", title_justify="left")
    for title in ("step", "size", "seconds", "GB/s", "peak memory"):
        table.add_column(title, justify="left" if title == "step" else "right")
    for step in steps:
        speed = f"{step.size / step.seconds / 1e9:.2f}"
        table.add_row(step.name, in_words(step.size), f"{step.seconds:.1f}", speed, in_words(step.peak_memory))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

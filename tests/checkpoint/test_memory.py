"""The memory of a process that reads one of four tensor-parallel ranks' part of a checkpoint.

Measured is RssAnon of /proc/PID/status, which counts memory of the process's own and not pages of mapped files. Another
process samples it every half millisecond, from before the reading to its end.
"""

import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_samples import memory_shapes, tiny_config
from shard_samples import WRITERS

from glm.distributed.plan import rank_part

ROOT = Path(__file__).resolve().parents[2]
# GLM-Large with 4 of its 24 layers in float32: 415 MB, of which the word embedding has 205 MB.
LARGE = {"vocab_size": 50048, "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 4}
DEGREE = 4
READER = """
    import sys
    sys.path[:0] = {paths!r}
    from checkpoint_samples import tiny_config
    from glm.checkpoint import load_state
    print("ready", flush=True)
    sys.stdin.readline()
    state = load_state({directory!r}, tiny_config(**{config!r}), rank={rank}, degree={degree})
    print(sum(array.nbytes for array in state.values()), flush=True)
"""


def anonymous_bytes(process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def peak_of_reading(directory, rank, degree) -> tuple[int, int]:
    """The peak of anonymous memory that reading adds to a process, and the bytes that it has read at the end."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    code = textwrap.dedent(READER).format(paths=paths, directory=str(directory), config=LARGE, rank=rank, degree=degree)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        before = peak = anonymous_bytes(process)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        while process.poll() is None:
            try:
                peak = max(peak, anonymous_bytes(process))
            except (OSError, IndexError):  # it ends meanwhile
                break
            time.sleep(0.0005)
        return peak - before, int(process.stdout.readline())


@pytest.fixture(params=WRITERS)
def directory(tmp_path, request):
    state = {name: np.zeros(shape, "float32") for name, shape in memory_shapes(tiny_config(**LARGE), 1025).items()}
    WRITERS[request.param](tmp_path, state, DEGREE, tiny_config(**LARGE))
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_rank_needs_memory_for_its_own_part(directory):
    """At most 1.3 times its own part, and the largest block: 194 MB.

    Measured in MB, of 415 in the files: its own part has 110, the peak is 114 (safetensors) or 111 (.pdparams). Reading
    the whole model takes 432; reading each tensor whole and cutting it afterwards took 260 to 265, and fails here.
    """
    shapes = memory_shapes(tiny_config(**LARGE), 1025)
    parts = {name: rank_part(name, np.zeros(shape, "float32"), 1, DEGREE).nbytes for name, shape in shapes.items()}
    peak, read = peak_of_reading(directory, 1, DEGREE)
    assert read == sum(parts.values())
    # Some of it may lie where the process had memory before it began to read.
    assert 0.99 * read < peak < 1.3 * read + max(parts.values())

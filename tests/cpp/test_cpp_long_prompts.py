"""A prompt whose scores would not fit: it is read in parts as small as Python's, and written on as Python does."""

import subprocess
import sys

import numpy as np
import pytest
from cpp_exports import Export, make_export
from test_cpp_tokens import wanted

from glm.runtime.columns import MOST_PAIRS

pytestmark = pytest.mark.long

CHUNK = 256
SHORT, LONG = MOST_PAIRS // CHUNK, 15000
# A small process starts the program: the peak of a child begins with what its parent has, and this one is large.
WATCH = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory, programs) -> Export:
    """All heads share one latent, whose graph keeps the scores of a call."""
    return Export(make_export("glm47", tmp_path_factory.mktemp("long"), positions=LONG + 50), programs)


def tokens_and_peak(export: Export, prompt: list[int]) -> tuple[list[int], int]:
    """What stands behind a prompt, and the most bytes of memory that the program had."""
    command = [export.programs / "glm_infer", "--model_path", export.folder, "--cpu_threads", 1, "--ids"]
    command += ["--src_length", LONG, "--tgt_length", 12, " ".join(map(str, prompt))]
    run = subprocess.run([sys.executable, "-S", "-c", WATCH, *map(str, command)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *_, line, peak = (line for line in run.stdout.splitlines() if line.startswith("  → ") or line.isdigit())
    return [int(word) for word in line.split()[1:]], 1024 * int(peak)


def test_tokens_and_memory(export):
    prompt = np.random.default_rng(4).integers(5, 300, LONG).tolist()
    found, peak = tokens_and_peak(export, prompt)
    assert [found] == wanted(export.generator(), [prompt], 1)
    _, short = tokens_and_peak(export, prompt[:SHORT])
    # Caches and copies of them aside; without parts it was 170 MB more.
    assert peak - short < 40 << 20, (peak, short)

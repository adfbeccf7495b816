"""The memory of a conversion, measured in a process of its own, pages of mapped files included."""

import subprocess
import sys
import textwrap
from pathlib import Path

from conversion_samples import sharded_directory

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES, SHARDS = 16, 12
CONVERTER = """
    import re, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from glm.checkpoint.conversion import Conversion
    from glm.checkpoint.convert import convert_checkpoint

    def resident(name):
        return 1024 * int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

    for source, target, form, degree in {jobs!r}:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        convert_checkpoint(Conversion(Path(source), Path(target), form, degree=degree, max_shard_size={room}))
        print(resident("VmHWM") - before, flush=True)
"""


def test_memory_does_not_grow_with_the_model(tmp_path):
    """At most 1.5 times the largest shard, 16 MB of 192."""
    source = sharded_directory(tmp_path / "source", SHARDS, MEGABYTES)
    largest = max(path.stat().st_size for path in source.iterdir())
    assert 0.95 * MEGABYTES * 10**6 < largest < 1.01 * MEGABYTES * 10**6
    whole, back, ranks, mcore, last = (str(tmp_path / name) for name in ("whole", "back", "ranks", "mcore", "last"))
    jobs = [(str(source), whole, "paddle", 1), (whole, back, "hf", 1), (back, ranks, "paddle", 2)]
    jobs += [(back, mcore, "mcore", 2), (mcore, last, "paddle", 1)]
    code = textwrap.dedent(CONVERTER).format(root=str(ROOT), jobs=jobs, room=MEGABYTES * 10**6)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth = [int(line) for line in done.stdout.split()]
    assert len(growth) == len(jobs)
    assert max(growth) < 1.5 * largest, growth
    print(growth)
    assert min(growth) > 10**6

"""Indices on the disk: built once, of these data, whole or not at all."""

import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from glm.datasets.index_cache import DESCRIPTION, LOCK, IndexCache, key
from glm.datasets.pretraining import CACHE_FOLDER, Samples, SampleSettings, Source
from glm.errors import GLMError
from tests.indexed_text import write_indexed

WHAT = {"kind": "test", "samples": 3}


def built(times: list) -> dict[str, np.ndarray]:
    times.append(1)
    return {"numbers": np.arange(5), "others": np.zeros([2, 2], np.int32)}


def test_the_second_opening_reads(tmp_path):
    times = []
    first, second = (IndexCache(tmp_path / "cache").arrays(WHAT, lambda: built(times)) for _ in range(2))
    assert len(times) == 1
    assert first.keys() == second.keys() == {"numbers", "others"}
    assert isinstance(second["numbers"], np.memmap) and second["numbers"].tolist() == [0, 1, 2, 3, 4]
    IndexCache(tmp_path / "cache").arrays(WHAT | {"samples": 4}, lambda: built(times))
    assert len(times) == 2


def settings(**changes) -> SampleSettings:
    return SampleSettings(**{"split": "1,0,0", "max_length": 4, "seed": 1, "vocab_size": 800} | changes)


def entries(folder) -> set[str]:
    return {path.name for path in (folder / CACHE_FOLDER).iterdir()} - {LOCK}


def opened(prefix, **changes) -> Samples:
    return Samples([Source(prefix)], "train", settings(**changes), 9).build()


def test_the_key_is_the_content_of_the_data(tmp_path):
    """Of the index file: size and bytes, and when it was changed; of the samples, all that their order depends on."""
    prefix = write_indexed(tmp_path / "a", [[1, 2, 3], [4, 5, 6, 7]])
    opened(prefix)
    first = entries(tmp_path)
    opened(prefix)
    assert entries(tmp_path) == first and len(first) == 1
    write_indexed(prefix, [[1, 2, 3, 4], [5, 6, 7]])
    opened(prefix)
    assert len(entries(tmp_path)) == 2
    os.utime(tmp_path / "a.idx", (1, 1))
    opened(prefix)
    assert len(entries(tmp_path)) == 3
    for number, changes in enumerate(({"seed": 2}, {"max_length": 3}, {"split": "1,1,0"}), 4):
        opened(prefix, **changes)
        assert len(entries(tmp_path)) == number


def test_a_rewritten_data_set_is_not_read_by_old_indices(tmp_path):
    """What Megatron and PaddleNLP do, whose keys have the name only."""
    prefix = write_indexed(tmp_path / "a", [[1, 2, 3], [4, 5, 6, 7]])
    before = [row.tolist() for row in opened(prefix)]
    write_indexed(prefix, [[11] * 9, [12]])
    after = [row.tolist() for row in opened(prefix)]
    assert {token for row in before for token in row} == {1, 2, 3, 4, 5, 6, 7}
    assert {token for row in after for token in row} == {11, 12}


def test_an_entry_of_other_data_is_refused(tmp_path):
    """Copied under the name of another one: both values."""
    cache = IndexCache(tmp_path)
    cache.arrays(WHAT, lambda: built([]))
    other = WHAT | {"samples": 4}
    shutil.copytree(tmp_path / key(WHAT), tmp_path / key(other))
    with pytest.raises(GLMError, match=r"is of other data: its samples is 3, here it is 4: remove .* built anew"):
        cache.arrays(other, lambda: built([]))
    (tmp_path / key(WHAT) / "numbers.npy").write_bytes(b"")
    with pytest.raises(GLMError, match=r"is damaged .*: remove .* built anew"):
        cache.arrays(WHAT, lambda: built([]))
    (tmp_path / key(WHAT) / DESCRIPTION).write_text("{")
    with pytest.raises(GLMError, match=r"description.json is not valid JSON .*: remove .* built anew"):
        cache.arrays(WHAT, lambda: built([]))


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail():
        raise GLMError("no")

    with pytest.raises(GLMError, match="no"):
        IndexCache(tmp_path).arrays(WHAT, fail)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK}
    assert IndexCache(tmp_path).arrays(WHAT, lambda: built([]))["numbers"].size == 5


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GLMError, match=r"cannot be written \(.*\), and indices are kept there: pass --data_cache"):
        IndexCache(tmp_path / "file" / "cache").arrays(WHAT, lambda: built([]))


def build_slowly(folder, results, wait: float = 60.0) -> None:
    def build():
        results.put("built")
        time.sleep(0.5)
        return built([])

    try:
        IndexCache(folder, wait).arrays(WHAT, build)
        results.put("read")
    except GLMError as error:
        results.put(str(error))


def run_together(folder, *waits: float) -> list[str]:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=build_slowly, args=(folder, results, wait)) for wait in waits]
    for process in processes:
        process.start()
        time.sleep(0.1)
    for process in processes:
        process.join(20)
    return sorted(results.get(timeout=5) for _ in range(len(waits) + 1))


def test_two_processes_build_once(tmp_path):
    assert run_together(tmp_path, 60, 60) == ["built", "read", "read"]


def test_who_waits_too_long_says_so(tmp_path):
    found = run_together(tmp_path, 60, 0.1)
    assert found[1:] == ["built", "read"]
    assert (
        f"another process has been building indices in {tmp_path} for 0.1 s: end it, or pass --data_cache" in found[0]
    )

"""Records of a run on the disk: what a killed one leaves, and what another one finds there."""

import json

import pytest

from glm.errors import GLMError, UsageError
from glm.evaluation.multiple_choice.journal import NAME, Journal

RUN = {"task": "mmlu", "num_shots": 5, "the model": "模型"}
SIZES = [2, 3]
UNITS = [[{"id": str(10 * unit + i)} for i in range(size)] for unit, size in enumerate(SIZES)]


def opened(directory, run=RUN, **options) -> Journal:
    return Journal(directory, run, SIZES, **options)


@pytest.fixture
def whole(tmp_path) -> bytes:
    """The bytes of a run that nothing interrupted."""
    journal = opened(tmp_path / "whole")
    for unit in UNITS:
        journal.append(unit)
    journal.close()
    return journal.path.read_bytes()


def test_every_place_to_be_killed_at_ends_alike(tmp_path, whole):
    for size in range(len(whole) + 1):
        directory = tmp_path / str(size)
        directory.mkdir()
        (directory / NAME).write_bytes(whole[:size])
        journal = opened(directory)
        done = {0: 0, 2: 1, 5: 2}[len(journal.records)]
        assert journal.records == [record for unit in UNITS[:done] for record in unit]
        for unit in UNITS[done:]:
            journal.append(unit)
        journal.close()
        assert journal.path.read_bytes() == whole


def test_lines_behind_the_last_unit_are_dropped(tmp_path, whole):
    (tmp_path / NAME).write_bytes(whole + b'{"id": "none of this run"}\n')
    journal = opened(tmp_path)
    journal.close()
    assert journal.path.read_bytes() == whole


def test_another_run_is_refused_with_both_values(tmp_path, whole):
    directory = tmp_path / "whole"
    with pytest.raises(UsageError, match=r"another run: num_shots is 5 there and 0 here: choose another --output_dir"):
        opened(directory, RUN | {"num_shots": 0})
    with pytest.raises(UsageError, match=r'the model is "模型" there and "other" here'):
        opened(directory, RUN | {"the model": "other"})
    with pytest.raises(UsageError, match=r"limit is not set there and 3 here"):
        opened(directory, RUN | {"limit": 3})
    assert (directory / NAME).read_bytes() == whole
    journal = opened(directory, RUN | {"num_shots": 0}, overwrite=True)
    journal.close()
    assert journal.records == [] and json.loads(journal.path.read_text("utf-8")) == {"run": RUN | {"num_shots": 0}}


def test_two_processes(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(GLMError, match=r"another process writes \S+questions\.jsonl: wait for it"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


@pytest.mark.parametrize("content", [b"{}\n", b"no json\n", b"[]\n"])
def test_a_file_of_something_else(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(GLMError, match="does not begin with the description of a run"):
        opened(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_damaged_line(tmp_path, whole):
    lines = whole.splitlines(keepends=True)
    (tmp_path / NAME).write_bytes(b"".join([*lines[:2], b"}\n", *lines[3:]]))
    with pytest.raises(GLMError, match=r"questions\.jsonl is damaged: pass --overwrite_output_dir"):
        opened(tmp_path)

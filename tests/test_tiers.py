"""Tests that start processes are found in their code, and others cannot start one."""

import multiprocessing
import os
import subprocess
import sys
from functools import partial
from subprocess import run as run_it

import pytest

from tests import tiers
from tests.npu_simulator.launching import run_alone

HERE = [sys.executable, "-c", ""]


def direct():
    subprocess.run(HERE, check=True)


def by_name():
    run_it(HERE, check=True)


def inside():
    def deeper():
        import subprocess as other

        return other.Popen(HERE)

    return deeper()


def of_os():
    return os.fork()


def of_another_module():
    return run_alone("generation_loop.py")


def by_a_helper():
    return [direct() for _ in range(2)]


def recursive(depth):
    return recursive(depth - 1) if depth else by_a_helper()


def pool():
    return multiprocessing.get_context("spawn")


class Runner:
    def __call__(self):
        return direct()


RUNNER = Runner()


def by_an_object():
    return RUNNER()


def harmless():
    return os.getpid(), sorted([2, 1]), len(HERE)


@pytest.mark.parametrize(
    "function",
    [
        direct,
        by_name,
        inside,
        of_os,
        of_another_module,
        by_a_helper,
        recursive,
        pool,
        by_an_object,
        partial(direct),
        RUNNER,
    ],
)
def test_what_starts_a_process_is_seen(function):
    assert tiers.reaches(function)


def test_what_does_not_is_seen():
    assert not tiers.reaches(harmless)


@pytest.fixture
def process():
    return subprocess.Popen(HERE)


def test_a_fixture_counts(request, process):
    """This test is marked for what it asks for, and may start one."""
    assert request.node.get_closest_marker("process")
    assert process.wait() == 0


@pytest.mark.process
def test_a_mark_by_hand_counts():
    assert getattr(sys.modules["sub" + "process"], "run")(HERE).returncode == 0  # noqa: B009


@pytest.mark.parametrize("start", ["run", "fork"])
def test_an_unmarked_test_cannot(start, request):
    """The names are hidden from the look."""
    assert not request.node.get_closest_marker("process")
    module, arguments = {"run": ("sub" + "process", (HERE,)), "fork": ("o" + "s", ())}[start]
    with pytest.raises(tiers.ProcessStarted, match=r"mark this test with @pytest\.mark\.process"):
        getattr(sys.modules[module], start)(*arguments)

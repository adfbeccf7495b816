"""The connections between processes, in real ones that do nothing else: each runs a few lines of Python."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from glm.distributed import links
from glm.distributed.links import Links, start_seconds
from glm.errors import GLMError

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import os, sys, time
from glm.errors import GLMError
from glm.distributed.links import Links
rank, count, endpoint = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
links = Links(rank, count, endpoint)
links.advice = lambda: f"advice of {rank}"
print(os.getpid(), flush=True)
"""


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def run(rank: int, count: int, endpoint: str, body: str, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + body, str(rank), str(count), endpoint, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT), "GLM_START_TIMEOUT": "20"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(*bodies: str, more: tuple[str, ...] = ()) -> tuple[list[subprocess.Popen], list[str]]:
    """One process per rank, each with its own lines, which begin when all have met; and the processes' numbers."""
    endpoint = free_endpoint()
    processes = [run(rank, len(bodies), endpoint, f"input()\n{body}", *more) for rank, body in enumerate(bodies)]
    numbers = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        with suppress(BrokenPipeError):  # one that began before may have ended it already
            process.stdin.write("\n")
            process.stdin.flush()
    return processes, numbers


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, last line of output, and what each wrote on standard error."""
    texts = [process.communicate(timeout=30) for process in processes]
    pairs = zip(processes, texts, strict=True)
    return [(process.returncode, (out.splitlines() or [""])[-1], err.strip()) for process, (out, err) in pairs]


def test_texts_of_all_in_their_order():
    body = "print([links.gather(f'{rank} 中文\\n'), links.gather('x' * rank * 100_000)[-1].count('x')])"
    for code, out, err in ends(start(body, body, body)[0]):
        assert (code, out, err) == (0, "[['0 中文\\n', '1 中文\\n', '2 中文\\n'], 200000]", "")


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_killed_process_ends_the_others(killed):
    """They are busy with something else, such as a collective that never returns."""
    processes, numbers = start(*["time.sleep(60)"] * 3)
    processes[killed].kill()
    for rank, process in enumerate(processes):
        err = process.communicate(timeout=30)[1].strip()
        if rank == killed:
            assert process.returncode == -signal.SIGKILL
            continue
        assert process.returncode == 1
        assert err.startswith(f"error: rank {killed} (node ")
        assert err.endswith(f", process {numbers[killed]}) has ended; advice of {rank}")


def test_debug_shows_where_the_others_were():
    busy = "def collective():\n    time.sleep(60)\ncollective()"
    # It must not end before the other one is there.
    err = ends(start(busy, "time.sleep(1); os._exit(3)", more=("--debug",))[0])[0][2]
    assert "in collective\n" in err and "error: rank 1 (node " in err.splitlines()[-1]


def test_a_process_that_is_waited_for():
    """The main thread waits for it: there it is an error that can be handled."""
    wait = (
        "try:\n    with links.attending(): links.gather(''), links.gather('')\nexcept GLMError as error: print(error)"
    )
    processes, _ = start(wait, wait, "links.gather('')\nos.kill(os.getpid(), 9)")
    for rank, (code, out, _) in enumerate(ends(processes)[:2]):
        assert code == 0
        assert out.startswith("rank 2 (node ") and out.endswith(f"has ended; advice of {rank}")


def test_what_was_received_comes_before_the_news_of_an_end():
    """Two processes find the same fault, and one of them is faster."""
    other = """
try:
    with links.attending():
        with links.attending():
            links.gather('')  # from here on the other one may fail
            links._loss.wait(20)
        raise GLMError('the same fault')
except GLMError as error: print(error)
"""
    failing = "links.gather(''); links.fail('a fault')"
    for fast, bodies in ((0, [failing, other]), (1, [other, failing])):
        code, out, _ = ends(start(*bodies)[0])[1 - fast]
        assert (code, out) == (0, "the same fault")


def test_an_error_is_told_to_the_others():
    bodies = ["time.sleep(60)", "links.fail('the disk is full')", "time.sleep(60)"]
    first, _, third = ends(start(*bodies)[0])
    for rank, (code, _, err) in ((0, first), (2, third)):
        assert code == 1
        assert err.startswith("error: rank 1 (node ") and err.endswith(f"has ended: the disk is full; advice of {rank}")


def test_a_traceback_is_told_to_the_others():
    first, second = ends(start("time.sleep(60)", "{}['key']")[0])
    assert "KeyError" in second[2] and second[0] == 1
    assert first[2].endswith("has ended: KeyError: 'key'; advice of 0")


@pytest.mark.parametrize("early", [0, 1, 2])
def test_the_first_to_finish_ends_nobody(early):
    bodies = ["time.sleep(1)\nprint('done')"] * 3
    bodies[early] = "print('done')"
    assert ends(start(*bodies)[0]) == [(0, "done", "")] * 3


def test_who_has_left_is_not_waited_for():
    code, out, _ = ends(start("try: links.gather('')\nexcept GLMError as error: print(error)", "pass")[0])[0]
    assert (code, out) == (0, "rank 1 has ended, and was still waited for")


def test_children_do_not_keep_the_connection():
    """A data loader's process lives on for a while when its parent is killed."""
    child = "if os.fork() == 0:\n    time.sleep(20)\n    os._exit(0)\nprint('forked', flush=True)\ntime.sleep(60)"
    processes, _ = start("time.sleep(60)", child)
    assert processes[1].stdout.readline() == "forked\n"
    processes[1].kill()
    assert "error: rank 1" in processes[0].communicate(timeout=10)[1]


def test_strangers_are_sent_away():
    """A port scanner, and a rank of another launch."""
    endpoint, body = free_endpoint(), "print(links.gather(str(rank)))"
    ranks = [run(0, 2, endpoint, body)]
    host, port = endpoint.split(":")
    for said in (b"GET / HTTP/1.1\r\n\r\n", b'["hello", [1, "another launch", ""]]\n', b'["hello", 7]\n', b"[]\n", b""):
        while True:
            try:
                stranger = socket.create_connection((host, int(port)))
                break
            except ConnectionRefusedError:
                assert ranks[0].poll() is None
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
        stranger.close()
    ranks.append(run(1, 2, endpoint, body))
    assert ends(ranks) == [(0, "['0', '1']", "")] * 2


def test_the_missing_are_named(monkeypatch):
    """By rank 0, which tells those who wait with it."""
    monkeypatch.setenv("GLM_START_TIMEOUT", "0.5")
    endpoint = free_endpoint()
    waiting = run(1, 4, endpoint, "")
    said = r"ranks 2, 3 of 4 did not start within 0.5 s \(GLM_START_TIMEOUT\): see the workerlog files"
    with pytest.raises(GLMError, match=said):
        Links(0, 4, endpoint)
    assert "ranks 2, 3 of 4 did not start" in waiting.communicate(timeout=10)[1]


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(
            GLMError, match=r"rank 0 cannot listen at 127.0.0.1:\d+ \(Address already in use\): start again"
        ):
            Links(0, 2, f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_caller_that_reached_itself_frees_the_port(monkeypatch):
    """The kernel may give a caller the port that it calls; in a minute of TIME_WAIT nobody could listen there."""
    endpoint, real, met = free_endpoint(), socket.create_connection, []

    def from_there(address, timeout):
        met.append(real(address, timeout, source_address=address))
        return met[-1]

    with monkeypatch.context() as patches:
        patches.setattr(socket, "create_connection", from_there)
        assert links._connect(endpoint, time.monotonic() + 0.05) is None
    assert met
    links._server(endpoint, 2).close()


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_a_wrong_timeout(monkeypatch, value):
    monkeypatch.setenv("GLM_START_TIMEOUT", value)
    with pytest.raises(GLMError, match=rf"GLM_START_TIMEOUT is '{value}', and must be a number of seconds above 0"):
        start_seconds()

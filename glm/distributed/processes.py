"""What the processes of a launch say to each other besides tensors, over the hosts' network (glm/distributed/links.py).

It works before any device is set up, so that a mismatch between the processes is found while each can still say so.
"""

import atexit
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from glm.distributed.links import Links
from glm.errors import GLMError, UsageError


def process_rank() -> int:
    """This process's number in the launch, 0 without one."""
    return int(os.environ.get("PADDLE_TRAINER_ID") or 0)


def process_count() -> int:
    """Processes of the launch, over all nodes; 1 without one."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Has the process end without ado when it ends: behind the hooks registered in this context (such as notifying
    peers), with the exit code of what ran in it.

    Paddle's store and device runtime are not torn down: now and then that aborts a process that has done its work,
    and the launcher calls the job failed.
    """
    code = [1]  # of an exception that nobody expects
    atexit.register(_end_at_once, code)
    try:
        yield
        code[0] = 0
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _end_at_once(code: list[int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code[0])


def check_degrees(tensor_parallel: int, sharding: int, device: str) -> None:
    """Raises UsageError where the processes of the launch cannot be grouped so, or the device has no collectives."""
    count, needed = process_count(), max(tensor_parallel, 1) * max(sharding, 1)
    names = "tensor_parallel_degree" if sharding <= 1 else "tensor_parallel_degree times sharding_parallel_degree"
    if count % needed:
        devices = ",".join(map(str, range(needed)))
        raise UsageError(
            f"{names} is {needed}, and {count} process{'es were' if count > 1 else ' was'} launched: start with "
            f"python -m paddle.distributed.launch --devices {devices} …"
        )
    if needed > 1 and device.split(":")[0] == "cpu":
        raise UsageError(f"{names} {needed} needs NPUs or GPUs: Paddle has no tensor parallelism on the CPU")


@cache
def _links() -> Links:
    # The launcher leaves a very long list out of the environment; Paddle's function finds it in a file then.
    from paddle.distributed.backup_env import getenv_or_backup

    endpoints = getenv_or_backup("PADDLE_TRAINER_ENDPOINTS")
    if not endpoints:
        raise GLMError(
            "PADDLE_TRAINER_ENDPOINTS is not set: start the processes with python -m paddle.distributed.launch"
        )
    return Links(process_rank(), process_count(), endpoints.split(",")[0])


def _joined() -> bool:
    return _links.cache_info().currsize > 0


def gather(text: str) -> list[str]:
    """The texts of all processes, in their order. All must call it, in the same order of calls.

    Raises:
        GLMError: a process has ended, or at the first call: has not started in time.
    """
    return [text] if process_count() == 1 else _links().gather(text)


def advise(advice: Callable[[], str]) -> None:
    """What a process says to its user, besides what has happened, when another one has ended: what to do now."""
    if process_count() > 1:
        _links().advice = advice


def leave_with(message: str) -> None:
    """Tells the other processes that this one ends with an error, so that they do not wait for it."""
    if _joined():
        _links().fail(message)


def ended_process(seconds: float = 2.0) -> str | None:
    """The line about another process of this launch that has ended; None if there is none.

    Args:
        seconds: how long to wait for the news.
    """
    return _links().wait_for_loss(seconds) if _joined() else None


def from_rank_0(make: Callable[[], list[str]]) -> list[str]:
    """What `make` gives in the first process; the others do not call it."""
    return json.loads(gather(json.dumps(make() if process_rank() == 0 else None))[0])


def barrier() -> None:
    """Returns when every process has come here."""
    gather("")


def require_agreement(facts: Mapping[str, str]) -> None:
    """Compares what must be the same in every process.

    Args:
        facts: by name; the names are the same everywhere. Of values of several lines only what differs is shown.

    Raises:
        GLMError: naming the facts that differ, two processes and their values.
    """
    if process_count() == 1:
        return
    with _links().attending():
        found = [json.loads(text) for text in gather(json.dumps(list(facts.values())))]
        differences = [difference(values) for values in zip(*found, strict=True)]
        named = [f"{name} ({how})" for name, how in zip(facts, differences, strict=True) if how]
        if named:
            raise GLMError(
                f"the processes of this launch differ in {' and '.join(named)}: start all with the same arguments, "
                "data and code"
            )


def difference(values: Sequence[str]) -> str | None:
    """How the first value that differs from rank 0's does."""
    for rank, value in enumerate(values):
        if value != values[0]:
            first, other = values[0].splitlines(), value.splitlines()
            return f"{_beyond(first, other)} in rank 0, {_beyond(other, first)} in rank {rank}"
    return None


def _beyond(lines: list[str], others: list[str]) -> str:
    """The first line that the others lack."""
    own = [line for line in lines if line not in others]
    return own[0] if own else "nothing" if len(lines) < len(others) else "another order"


def digest(*contents: bytes | str) -> str:
    """Twelve characters that differ when any of the contents does."""
    whole = hashlib.sha256()
    for content in contents:
        data = content.encode() if isinstance(content, str) else content
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:12]


def code_version() -> str:
    """This package's source files, each with its digest."""
    package = Path(__file__).parents[1]
    return "\n".join(
        f"{file.relative_to(package)} {digest(file.read_bytes())}" for file in sorted(package.rglob("*.py"))
    )


def require_shared(directory: Path) -> None:
    """Makes sure that every process sees what another one writes into a directory, which is created.

    Raises:
        GLMError: naming the first process that does not.
    """
    if process_count() == 1:
        return
    directory.mkdir(parents=True, exist_ok=True)
    with _links().attending(), tempfile.TemporaryDirectory(prefix=".shared.tmp-", dir=directory) as own:
        found = gather(str((directory / gather(Path(own).name)[0]).is_dir()))
        if str(False) in found:
            raise GLMError(
                f"output_dir {directory} is not shared: rank {found.index(str(False))} does not see there what rank 0 "
                "writes: choose a directory on a file system that all nodes share, by its full path"
            )


@contextmanager
def written_together(directory: "Path", build) -> Iterator[Path]:
    """A directory that all processes fill and that appears whole, or not at all.

    Args:
        directory: where it will be; on a file system that all processes share.
        build: context manager of one path that yields where to build it and then moves it (`atomic_directory`).

    Raises:
        GLMError: a process does not see what rank 0 created.
    """
    if process_rank():
        staging = Path(gather("")[0])
        if not staging.is_dir():
            raise GLMError(f"{directory} is not shared: rank 0 created {staging}, and rank {process_rank()} lacks it")
        yield staging
        barrier()
    else:
        with build(directory) as staging:
            gather(str(staging))
            yield staging
            barrier()
    barrier()

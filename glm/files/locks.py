"""Locks between processes (flock), which end with their process."""

import errno
import fcntl
import os
from pathlib import Path

from glm.errors import UsageError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_held: dict[Path, int] = {}


def lock(descriptor: int) -> bool:
    """Whether this process has the lock of an open file now; where the file system has no locks, every process has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def hold_directory(directory: Path) -> None:
    """Keeps other processes' runs out of a directory until this process ends; its own runs may follow each other.

    Raises:
        UsageError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    place = directory.resolve()
    if _is_held(place):
        return
    descriptor = os.open(place, os.O_RDONLY)
    if not lock(descriptor):
        os.close(descriptor)
        raise UsageError(f"another run is writing into {directory} now: wait for its end, or choose another directory")
    _held[place] = descriptor


def _is_held(place: Path) -> bool:
    """Whether the lock is of the directory that has the name now, not of one that was removed since."""
    if place not in _held:
        return False
    if os.path.samestat(os.fstat(_held[place]), place.stat()):
        return True
    os.close(_held.pop(place))
    return False

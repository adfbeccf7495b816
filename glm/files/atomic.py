"""Writing so that a crash, a kill or a full disk never harms what was there before.

Everything is built in a hidden staging directory beside the target (`.NAME.tmp-…`, so on the same file system),
flushed to the disk, and only then renamed into place. A staging directory is locked by its writer; one that nobody
locks was left by a killed process and is removed by the next write of the same target.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from glm.errors import GLMError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def atomic_file(path: str | Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` when the block ends without an exception.

    For one writer at a time: a second one may take the first one's directory for a dead process's.

    Args:
        path: the file to create or replace. Its directory must exist.
        needed: the bytes that will be written, if known: for an early refusal and for the message.
    Raises:
        GLMError: when the disk is full (or a quota or file size limit is reached); `path` is then untouched.
    """
    path = Path(path)
    with staged(path, needed) as staging:
        temporary = staging / path.name
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask gives; a library that replaces the file may choose 0600
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", encoding: str | None = None) -> Iterator[IO]:
    """`atomic_file` as an open file: `with atomic_write("config.json", "w", "utf-8") as file: …`.

    Raises:
        GLMError: as `atomic_file`.
    """
    with atomic_file(path) as temporary, temporary.open(mode, encoding=encoding) as file:
        yield file


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty directory to fill; it takes the place of `path`, and of all that was in it, when the block ends.

    An existing `path` is exchanged in one step where the file system can (ext4, xfs, btrfs, tmpfs). Elsewhere it is
    first renamed to `path.old-…`, so a crash between the two renames still leaves the old version whole.

    Raises:
        GLMError: when `path` is a file, or the disk is full; `path` is then untouched.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise GLMError(f"{path} is a file, a directory was to be written there: remove it or choose another name")
    with staged(path, None) as staging:
        built = staging / path.name
        built.mkdir()
        yield built
        for folder, _, files in os.walk(built):
            for name in files:
                sync(Path(folder, name))
            sync(Path(folder))
        _move_directory(built, path)
        sync(path.parent)


@contextmanager
def staged(path: Path, needed: int | None) -> Iterator[Path]:
    """A locked staging directory beside `path`, removed at the end; lack of room becomes a GLMError.

    Args:
        path: what is going to be written, for the directory's name and for messages. Its own directory must exist.
        needed: as in `atomic_file`.
    """
    if not path.parent.is_dir():
        raise GLMError(f"{path.parent} is not a directory, {path.name} cannot be written there: create it first")
    _remove_abandoned(path)
    if needed is not None and shutil.disk_usage(path.parent).free < needed:
        raise _no_room(path, needed)
    staging = lock = None
    try:
        staging = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
        lock = lock_directory(staging)
        yield staging
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _no_room(path, needed, error.strerror) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def _no_room(path: Path, needed: int | None, reason: str = "No space left on device") -> GLMError:
    want = "more" if needed is None else f"{needed:,} bytes"
    free = shutil.disk_usage(path.parent).free
    return GLMError(
        f"{path} was not written ({reason}): {want} needed, {free:,} bytes free; what was there before is unchanged: "
        f"make room or choose another directory"
    )


def lock_directory(directory: Path) -> int | None:
    """Lock a directory as long as the returned descriptor is open; None when another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(path: Path) -> None:
    for entry in path.parent.iterdir():
        if entry.name.startswith(_prefix(path)) and entry.is_dir():
            with suppress(FileNotFoundError):  # its owner may finish meanwhile
                lock = lock_directory(entry)
                if lock is not None:
                    shutil.rmtree(entry, ignore_errors=True)
                    os.close(lock)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_directory(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):  # after an exchange the old version lies in the staging directory
        old = Path(tempfile.mkdtemp(prefix=f"{path.name}.old-", dir=path.parent))
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step with renameat2(2); False where C library or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    result = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return result == 0


def write_json(path: Path, content: Any, **style: Any) -> None:
    """A JSON file, whole or not at all; indented, unless `style`, which is json.dumps', says otherwise."""
    text = json.dumps(content, **{"indent": 2, "ensure_ascii": False} | style)
    write_bytes(path, f"{text}\n".encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file of these bytes, whole or not at all."""
    with atomic_write(path) as file:
        file.write(content)


def reserve(descriptor: int, size: int) -> None:
    """Gives an open file its size; raises OSError where the disk has no room for it."""
    with suppress(AttributeError):  # macOS has no such call
        os.posix_fallocate(descriptor, 0, size)
    os.ftruncate(descriptor, size)

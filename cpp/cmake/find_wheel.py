"""Where the library of an installed wheel lies, for CMake: `python find_wheel.py PACKAGE` prints VERSION;LIBRARY.

Nothing of the package is imported. Prints nothing where it is not installed.
"""

import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path

# Package of a wheel → how its library is called.
LIBRARIES = {
    "onnxruntime": "libonnxruntime.so*",
    "paddlepaddle": "libpaddle.so",
    "fastdeploy-python": "libfastdeploy.so*",
}


def main(package: str) -> None:
    try:
        found = [file for file in files(package) or () if Path(file).match(LIBRARIES[package])]
        release = version(package)
    except PackageNotFoundError:
        return
    if found:
        print(f"{release};{Path(found[0].locate()).resolve()}", end="")


def python_library() -> None:
    """The library of the running Python itself, whose data libpaddle.so asks for when it is loaded."""
    folders = [sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL")]
    names = [sysconfig.get_config_var("LDLIBRARY"), sysconfig.get_config_var("INSTSONAME")]
    places = (Path(folder) / name for folder in folders if folder for name in names if name)
    print(next((str(place) for place in places if place.is_file() and ".so" in place.name), ""), end="")


if __name__ == "__main__":
    python_library() if sys.argv[1] == "python" else main(sys.argv[1])

"""Exports on the disk: written whole or not at all beside other exports, and refused where they are not as written."""

import json
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from glm.errors import GLMError
from glm.export import files as export_files
from glm.export.files import Manifest, exported_formats, read_manifest, start_check
from glm.export.tokenizer_file import NAME as TOKENIZER_FILE
from glm.export.writing import write_export

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {"paddle": (".json", ".pdiparams", ".step.json"), "onnx": (".onnx", ".onnx.data")}
TEXT = {"config.json": "{}", "tokenizer.model": "words"}


def draft(format: str, **changes) -> Manifest:
    kind = {"dtype": "float32", "weights": "fp32", "block_size": None, "head_bits": None, "symmetric": None}
    sizes = {"vocab_size": 7, "max_position": 9, "parameters": 3, "files": {}}
    return Manifest(**{"format_version": 5, "format": format, "source": "a/model"} | kind | sizes | changes)


def export(directory: Path, format="onnx", name="glm", content="weights", text=TEXT, needed=0, graphs=None) -> Manifest:
    def write_text(staging: Path) -> None:
        for file, words in text.items():
            (staging / file).write_text(words)

    def write_graphs(prefix: Path) -> None:
        for suffix in SUFFIXES[format]:
            prefix.with_name(f"{prefix.name}{suffix}").write_text(f"{content} {suffix}")

    return write_export(directory / name, draft(format), needed, write_text, graphs or write_graphs)


def test_an_export_joins_one_of_before_the_flat_tokenizer(tmp_path):
    """Python reads the other form; a flat file that differs is refused as any other."""
    export(tmp_path, "onnx")
    export(tmp_path, "paddle", text=TEXT | {TOKENIZER_FILE: "flat"})
    assert TOKENIZER_FILE not in read_manifest(tmp_path, "glm", "onnx").files
    assert TOKENIZER_FILE in read_manifest(tmp_path, "glm", "paddle").files
    line = refused(export, tmp_path, "onnx", "other", text=TEXT | {TOKENIZER_FILE: "FLAT"})
    assert TOKENIZER_FILE in line and "both would read one file" in line


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(function, *arguments, **options) -> str:
    with pytest.raises(GLMError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def checksum(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


@pytest.fixture
def both(tmp_path) -> Path:
    """A directory with an export in either format."""
    for format in SUFFIXES:
        export(tmp_path, format)
    return tmp_path


# Reading


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    manifest = export(tmp_path / "new" / "infer")
    assert read_manifest(tmp_path / "new" / "infer", "glm", "onnx") == manifest
    assert manifest.files.keys() == {"glm.onnx", "glm.onnx.data", *TEXT}
    assert manifest.files["config.json"] == {"size": 2, "crc32": checksum(b"{}")}
    start_check(tmp_path / "new" / "infer", manifest).result()
    assert [path.name for path in (tmp_path / "new" / "infer").iterdir() if path.name.startswith(".")] == []


def test_formats(both):
    assert exported_formats(both, "glm") == ["paddle", "onnx"]
    assert exported_formats(both, "other") == []
    (both / "glm.paddle.manifest.json").unlink()
    assert exported_formats(both, "glm") == ["onnx"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


MANIFEST = "glm.onnx.manifest.json"
DAMAGE = {
    "short weights": (
        lambda folder: (folder / "glm.onnx.data").write_bytes(b"short"),
        f"glm.onnx.data has 5 bytes, {MANIFEST} says 18: copy the whole export, or export again",
    ),
    "no weights": (
        lambda folder: (folder / "glm.onnx.data").unlink(),
        f"glm.onnx.data is missing, which {MANIFEST} names: copy the whole export, or export again",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model is missing, which"),
    "no manifest": (
        lambda folder: (folder / MANIFEST).unlink(),
        f"holds no whole export glm.onnx: {MANIFEST} is missing; exported models there (--model_prefix): glm (paddle)",
    ),
    "no JSON": (lambda folder: (folder / MANIFEST).write_text("{"), f"{MANIFEST} is not valid JSON ("),
    "a list": (
        lambda folder: (folder / MANIFEST).write_text("[]"),
        f"{MANIFEST} holds a JSON list, not an object: export",
    ),
    "no UTF-8": (lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe"), f"{MANIFEST} is UTF-16, not UTF-8"),
    "no fields": (lambda folder: (folder / MANIFEST).write_text('{"format_version": 3}'), "damaged (KeyError"),
    "a list of files": (lambda folder: edit(folder / MANIFEST, files=[]), f"{MANIFEST} is damaged"),
    "no files": (lambda folder: edit(folder / MANIFEST, files={}), "damaged (it does not name glm.onnx)"),
    "a file elsewhere": (
        lambda folder: edit(folder / MANIFEST, files={"../glm.onnx": {"size": 1, "crc32": "0" * 8}}),
        "damaged (ValueError: what it says of '../glm.onnx')",
    ),
    **{
        f"gives_columns {value!r}": (
            lambda folder, value=value: edit(folder / MANIFEST, gives_columns=value),
            f"{MANIFEST} is damaged (ValueError: gives_columns is {value!r}): export the model again",
        )
        for value in ("no", 1, None, [])
    },
    "another format": (lambda folder: edit(folder / MANIFEST, format="paddle"), "is of format 'paddle', not 'onnx'"),
    "another version": (
        lambda folder: edit(folder / MANIFEST, format_version=99),
        f"{MANIFEST} has format version 99, this code reads 3, 4 and 5: export again",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_are_not_what_was_written(both, case):
    damage, message = DAMAGE[case]
    damage(both)
    assert message in refused(read_manifest, both, "glm", "onnx")


def test_an_export_of_version_3_opens(both):
    """Its graphs have fewer options, and are what they were."""
    edit(both / MANIFEST, format_version=3)
    assert read_manifest(both, "glm", "onnx").format_version == 3


@pytest.mark.parametrize("version", [1, 2])
def test_exports_of_older_versions(tmp_path, version):
    for suffix in (".json", ".pdiparams"):
        (tmp_path / f"glm{suffix}").write_text("{}")
    (tmp_path / "glm.info.json").write_text(json.dumps({"format_version": version, "dtype": "float32"}))
    message = refused(read_manifest, tmp_path, "glm", "paddle")
    assert message.endswith(f"glm.info.json has format version {version}, this code reads 3, 4 and 5: export again")
    export(tmp_path, "paddle")
    assert read_manifest(tmp_path, "glm", "paddle").format_version == 5
    assert not (tmp_path / "glm.info.json").exists()


def test_no_directory(tmp_path):
    assert "is not a directory; give the one that export_gen" in refused(read_manifest, tmp_path / "no", "glm", "onnx")


@pytest.mark.parametrize("file", ["glm.onnx.data", "config.json"])
def test_the_check_finds_a_changed_byte(both, file, monkeypatch):
    manifest = read_manifest(both, "glm", "onnx")
    flip(both / file)
    found = checksum((both / file).read_bytes())
    at_once = refused(lambda: start_check(both, manifest))
    assert f"{file} has the checksum {found}, its manifest says {manifest.files[file]['crc32']}: copy the" in at_once
    monkeypatch.setattr(export_files, "SMALL_FILE", 0)
    check = start_check(both, read_manifest(both, "glm", "onnx"))
    assert refused(check.result) == refused(check.result) == at_once  # it does not forget


def test_the_check_of_a_file_that_is_gone(both):
    manifest = read_manifest(both, "glm", "onnx")
    (both / "glm.onnx").unlink()
    assert "glm.onnx is gone" in refused(lambda: start_check(both, manifest))


@pytest.mark.long
def test_the_check_runs_beside_other_work(tmp_path, monkeypatch):
    """It waits for a pipe that is written to late; its starter does not."""
    monkeypatch.setattr(export_files, "SMALL_FILE", 0)
    manifest = export(tmp_path)
    pipe = tmp_path / "glm.onnx.data"
    pipe.unlink()
    os.mkfifo(pipe)
    begun = []

    def write() -> None:
        begun.append(True)
        pipe.write_text("weights .onnx.data")

    late = threading.Timer(3, write)
    late.start()
    check = start_check(tmp_path, manifest)
    assert not begun
    check.result()
    late.join()


# Writing


def test_an_export_takes_the_place_of_another(tmp_path):
    """Also of those of its files that the new one does not have."""
    export(tmp_path, "paddle", text=TEXT | {"generation_config.json": "{}"})
    assert {"glm.step.json", "generation_config.json"} <= set(snapshot(tmp_path))

    def graphs(prefix: Path) -> None:
        for suffix in (".json", ".pdiparams"):
            prefix.with_name(f"{prefix.name}{suffix}").write_text("other")

    manifest = export(tmp_path, "paddle", text={"config.json": "[]"}, graphs=graphs)
    assert manifest.files.keys() == {"glm.json", "glm.pdiparams", "config.json"}
    assert set(snapshot(tmp_path)) == {*manifest.files, "glm.paddle.manifest.json"}
    assert read_manifest(tmp_path, "glm", "paddle") == manifest
    assert (tmp_path / "glm.json").read_text() == "other"


def test_an_earlier_export_stays_whole_when_the_next_one_fails(both):
    before = snapshot(both)

    def graphs(prefix: Path) -> None:
        prefix.with_name("glm.onnx").write_text("half of it")
        raise GLMError("damaged checkpoint")

    assert refused(export, both, graphs=graphs) == "damaged checkpoint"
    assert snapshot(both) == before


def test_a_new_directory_goes_when_its_export_fails(tmp_path):
    refused(export, tmp_path / "a" / "b", needed=1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room(both):
    before = snapshot(both)
    message = refused(export, both, needed=1 << 60)
    assert f"glm.onnx was not written (No space left on device): {1 << 60:,} bytes needed" in message
    assert snapshot(both) == before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_export_files import export
import glm.export.writing as writing
real = writing.sync
def die(path):
    if path.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path)
writing.sync = die
export(Path(sys.argv[1]), "onnx", content="changed")
"""


@pytest.mark.parametrize("at", ["glm.onnx.data", "moving"])
def test_killed(both, at):
    """Before files are replaced, the earlier export stays; among it none is left, and the other format is whole."""
    before = snapshot(both)
    code = KILLED.format(root=str(ROOT), tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(both), both.name if at == "moving" else at])
    assert done.returncode == -9
    visible = {name: content for name, content in snapshot(both).items() if not name.startswith(".")}
    if at == "moving":
        assert visible == {name: content for name, content in before.items() if name != MANIFEST}
        assert "holds no whole export glm.onnx" in refused(read_manifest, both, "glm", "onnx")
    else:
        assert visible == before
    start_check(both, read_manifest(both, "glm", "paddle")).result()
    export(both, "onnx", content="again")  # which also clears up
    assert not [path for path in both.iterdir() if path.name.startswith(".")]
    start_check(both, read_manifest(both, "glm", "onnx")).result()


OTHER_TEXT = {
    "config.json": (TEXT | {"config.json": "[]"}, b"{}", b"[]"),
    "tokenizer.model": ({"config.json": "{}"}, b"words", None),
    "generation_config.json": (TEXT | {"generation_config.json": "{}"}, None, b"{}"),
}


@pytest.mark.parametrize("file", OTHER_TEXT)
def test_side_files_that_another_export_needs(both, file):
    """Changed, left out, or with a file more."""
    before = snapshot(both)
    text, *contents = OTHER_TEXT[file]
    theirs, ours = (None if content is None else checksum(content) for content in contents)
    message = refused(export, both, "paddle", text=text)
    assert f"{file} has the checksum {theirs} in {MANIFEST} and {ours} in this export" in message
    assert message.endswith("give --output_path another directory")
    assert snapshot(both) == before


def test_refused_before_the_weights_are_read(both):
    def graphs(prefix: Path) -> None:
        raise AssertionError("weights were read")

    refused(export, both, "onnx", text=TEXT | {"config.json": "[]"}, graphs=graphs)


def test_a_name_whose_files_are_anothers(both):
    message = refused(export, both, "paddle", name="glm.step")
    assert "glm.step.json belongs to glm.paddle.manifest.json: give --output_path another name or directory" in message


def test_two_names_share_side_files(both):
    export(both, "onnx", name="other", content="longer weights")
    for name in ("glm", "other"):
        start_check(both, read_manifest(both, name, "onnx")).result()
    assert "(--model_prefix): glm (onnx), glm (paddle), other (onnx)" in refused(read_manifest, both, "a", "onnx")


def test_what_another_export_says_of_a_damaged_manifest_protects_nothing(both):
    (both / MANIFEST).write_text("{")
    export(both, "paddle", text={"config.json": "[]"})
    assert (both / "config.json").read_text() == "[]"


def test_a_stray_generation_config(tmp_path):
    (tmp_path / "generation_config.json").write_text("{}")
    assert "generation_config.json is not of this model and would be read with it" in refused(export, tmp_path)


def test_a_config_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    message = refused(export, tmp_path)
    assert "config.json is of no export and would be replaced: remove it, or give --output_path another" in message
    assert message.endswith(f"such as {tmp_path}/export/glm")
    (tmp_path / "config.json").write_text(TEXT["config.json"])
    export(tmp_path)


@pytest.mark.parametrize("name", ["glm.json", "glm.step.json", "glm.pdiparams"])
def test_a_file_of_the_graphs_name_is_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"my": "data"}')
    message = refused(export, tmp_path, "paddle")
    assert f"{name} is of no export and would be replaced: remove it, or give" in message
    assert snapshot(tmp_path) == {name: b'{"my": "data"}'}


def test_a_file_that_is_only_called_like_an_old_manifest_stays(tmp_path):
    (tmp_path / "glm.info.json").write_text('{"my": "data"}')
    export(tmp_path, "paddle")
    assert (tmp_path / "glm.info.json").read_text() == '{"my": "data"}'


def test_a_checkpoint_is_no_place_for_an_export(tmp_path):
    (tmp_path / "model.safetensors").write_text("weights")
    message = refused(export, tmp_path)
    assert "holds the checkpoint model.safetensors, whose config.json an export would replace" in message


@pytest.mark.parametrize("place", ["file/glm", "folder"])
def test_no_directory_and_name(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / place
    assert refused(export, path.parent, name=path.name).startswith(
        f"{tmp_path / 'file'} is a file" if place == "file/glm" else f"{path} is a directory; output_path needs a name"
    )

"""What is written reads back, replaces the old file whole or not at all, and never fills a disk silently."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_samples import random_state, same_bits, tiny_config

from glm.checkpoint import atomic_directory, atomic_file, atomic_write, load_state, save_state
from glm.errors import GLMError
from glm.files import atomic

CONFIG = tiny_config()
ROOT = Path(__file__).resolve().parents[2]
NAMES = {"safetensors": "model.safetensors", "pdparams": "model_state.pdparams"}


def names_in(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("weight_format", NAMES)
def test_round_trip(tmp_path, weight_format, dtype):
    state = random_state(CONFIG, dtype)
    path = save_state(tmp_path / "new" / "model", state, CONFIG, weight_format=weight_format)
    assert path == tmp_path / "new" / "model" / NAMES[weight_format]
    assert names_in(path.parent) == [path.name]
    assert same_bits(load_state(path.parent, CONFIG), state)


def test_weights_in_any_memory_order(tmp_path):
    """safetensors' writer takes memory as it lies: a transposed array must not be written transposed."""
    state = random_state(CONFIG)
    for weight_format in NAMES:
        fortran = {name: np.asfortranarray(array) for name, array in state.items()}
        save_state(tmp_path / weight_format, fortran, CONFIG, weight_format=weight_format)
        assert same_bits(load_state(tmp_path / weight_format, CONFIG), state)


def test_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    for weight_format, name in NAMES.items():
        save_state(tmp_path / weight_format, random_state(CONFIG), CONFIG, weight_format=weight_format)
        assert (tmp_path / weight_format / name).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pdparams_name_nothing_but_numpy(tmp_path):
    """As paddle.save writes it: protocol 4, bfloat16 as uint16."""
    save_state(tmp_path, random_state(CONFIG, "bfloat16"), CONFIG, weight_format="pdparams")
    content = (tmp_path / "model_state.pdparams").read_bytes()
    assert content[:2] == b"\x80\x04"
    assert {array.dtype.name for array in pickle.loads(content).values()} == {"uint16"}


def test_weights_that_would_not_be_read_are_refused(tmp_path):
    save_state(tmp_path, random_state(CONFIG), CONFIG)
    with pytest.raises(GLMError, match=r"already holds model.safetensors, which is read in preference to model_state"):
        save_state(tmp_path, random_state(CONFIG, seed=1), CONFIG, weight_format="pdparams")
    assert names_in(tmp_path) == ["model.safetensors"]
    with pytest.raises(GLMError, match=r"weight format 'onnx' is unknown: choose one of safetensors, pdparams"):
        save_state(tmp_path, {}, CONFIG, weight_format="onnx")


def test_an_incomplete_state_leaves_the_old_file(tmp_path):
    state = random_state(CONFIG)
    save_state(tmp_path, state, CONFIG)
    with pytest.raises(GLMError, match=r"lacks model.norm.bias"):
        save_state(tmp_path, {n: a for n, a in random_state(CONFIG, seed=1).items() if n != "model.norm.bias"}, CONFIG)
    assert same_bits(load_state(tmp_path, CONFIG), state)


SAVER = """
    import sys, time
    sys.path[:0] = {paths!r}
    import numpy as np
    from checkpoint_samples import memory_shapes, tiny_config
    from glm.files import atomic
    from glm.checkpoint import save_state
    atomic.sync = lambda path: time.sleep(60)  # should the parent look away, wait for it before the rename
    config = tiny_config(hidden_size=1024, num_hidden_layers=6)
    state = {{name: np.ones(shape, "float32") for name, shape in memory_shapes(config).items()}}
    print("go", flush=True)
    save_state({target!r}, state, config, weight_format={weight_format!r})
"""


def killed_while_writing(target, weight_format) -> bool:
    """Start a save of 300 MB and kill it as soon as part of the new file is on the disk."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    code = textwrap.dedent(SAVER).format(paths=paths, target=str(target), weight_format=weight_format)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.is_file() and path.stat().st_size > 1 << 20 for path in target.glob(".*.tmp-*/*")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("weight_format", NAMES)
def test_a_kill_leaves_the_old_checkpoint_whole(tmp_path, weight_format):
    state = random_state(CONFIG)
    before = save_state(tmp_path, state, CONFIG, weight_format=weight_format).read_bytes()
    assert killed_while_writing(tmp_path, weight_format)
    assert (tmp_path / NAMES[weight_format]).read_bytes() == before
    assert same_bits(load_state(tmp_path, CONFIG), state)
    save_state(tmp_path, state, CONFIG, weight_format=weight_format)
    assert names_in(tmp_path) == [NAMES[weight_format]]  # the dead writer's remains are gone


def run_limited(code: str, limit: int | None = None) -> str:
    """Run code in a process that may not write files above `limit` bytes; its output."""
    paths = [str(ROOT), str(Path(__file__).parent)]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{textwrap.dedent(code)}"],
        capture_output=True,
        text=True,
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize("weight_format", NAMES)
def test_a_file_size_limit(tmp_path, weight_format):
    """Room as far as the file system knows, and an error in the middle of writing."""
    state = random_state(CONFIG)
    save_state(tmp_path, state, CONFIG, weight_format=weight_format)
    code = f"""
        from checkpoint_samples import random_state, tiny_config
        from glm.checkpoint import save_state
        from glm.errors import GLMError
        state = random_state(tiny_config(), seed=1)
        try:
            save_state({str(tmp_path)!r}, state, tiny_config(), weight_format={weight_format!r})
        except GLMError as error:
            print("REFUSED", error)
    """
    output = run_limited(code, 4096)
    assert f"REFUSED {tmp_path}/{NAMES[weight_format]} was not written (File too large): 8,128 bytes needed" in output
    assert "bytes free; what was there before is unchanged" in output
    assert names_in(tmp_path) == [NAMES[weight_format]]
    assert same_bits(load_state(tmp_path, CONFIG), state)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small file system here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_is_known_beforehand(small_disk):
    save_state(small_disk, random_state(CONFIG), CONFIG)
    big = tiny_config(hidden_size=64)
    message = r"model.safetensors was not written .*: 409,088 bytes needed, 5\d,\d{3} bytes free"
    with pytest.raises(GLMError, match=message):
        save_state(small_disk, random_state(big), big)
    assert names_in(small_disk) == ["model.safetensors"]
    assert same_bits(load_state(small_disk, CONFIG), random_state(CONFIG))


def test_nothing_is_written_when_room_is_known_to_lack(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(GLMError, match=r"a was not written .*: 1,000,000,000,000,000,000 bytes needed"):  # noqa: SIM117
        with atomic_file(tmp_path / "a", needed=10**18):
            pytest.fail("the writer was started")
    assert (tmp_path / "a").read_text() == "old"


def test_a_disk_that_fills_up_while_writing(small_disk):
    with atomic_write(small_disk / "config.json") as file:
        file.write(b"old")
    with pytest.raises(GLMError, match=r"config.json was not written \(No space left on device\): more needed, \d+"):  # noqa: SIM117
        with atomic_write(small_disk / "config.json") as file:
            file.write(b"x" * 200_000)
    with (
        pytest.raises(GLMError, match=r"export was not written \(No space left"),
        atomic_directory(small_disk / "export") as new,
    ):
        (new / "a").write_bytes(b"x" * 200_000)
    assert (small_disk / "config.json").read_bytes() == b"old"
    assert names_in(small_disk) == ["config.json"]


def test_an_exception_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), atomic_write(tmp_path / "a", "w", "utf-8") as file:
        file.write("new")
        raise KeyError
    assert (tmp_path / "a").read_text() == "old"
    assert names_in(tmp_path) == ["a"]
    with atomic_write(tmp_path / "a", "w", "utf-8") as file:
        file.write("新")
        file.flush()
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text("utf-8") == "新"


def test_other_os_errors_pass(tmp_path):
    with pytest.raises(PermissionError), atomic_file(tmp_path / "a"):
        raise PermissionError(13, "denied")
    with (
        pytest.raises(GLMError, match="none is not a directory, a cannot be written there: create it"),
        atomic_file(tmp_path / "none" / "a"),
    ):
        pass


def test_a_link_is_replaced_and_its_target_kept(tmp_path):
    """Downloads of the Hugging Face hub are links into a shared cache."""
    (tmp_path / "blob").write_text("old")
    (tmp_path / "a").symlink_to("blob")
    with atomic_write(tmp_path / "a", "w") as file:
        file.write("new")
    assert ((tmp_path / "a").read_text(), (tmp_path / "blob").read_text()) == ("new", "old")


def test_a_living_writer_is_left_alone(tmp_path):
    with atomic_file(tmp_path / "a") as first:
        first.write_text("first")
        with atomic_file(tmp_path / "a") as second:
            second.write_text("second")
        assert (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("exchange", [True, False])
def test_directories(tmp_path, monkeypatch, exchange):
    """With the one-step exchange and, as on network file systems, without."""
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "checkpoint-1"
    for content in ("old", "new"):
        with atomic_directory(target) as new:
            (new / "sub").mkdir()
            (new / "sub" / content).write_text(content)
            assert not (target / "sub" / content).exists()
    assert names_in(target / "sub") == ["new"]
    assert names_in(tmp_path) == ["checkpoint-1"]
    with pytest.raises(KeyError), atomic_directory(target) as new:
        raise KeyError
    assert names_in(target / "sub") == ["new"]
    assert names_in(tmp_path) == ["checkpoint-1"]


def test_a_failed_second_rename_brings_the_old_directory_back(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    target = tmp_path / "export"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_directory(target) as new:
        original = atomic.sync
        # The new directory vanishes after it was flushed, so the second rename fails.
        monkeypatch.setattr(atomic, "sync", lambda path: original(path) or (path == new and new.rmdir()))
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["export"]


def test_the_exchange_is_one_step_here(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert atomic._exchange(tmp_path / "a", tmp_path / "b")
    assert names_in(tmp_path / "a") == ["b"]
    assert not atomic._exchange(tmp_path / "a", tmp_path / "none")


def test_a_file_is_not_replaced_by_a_directory(tmp_path):
    (tmp_path / "a").write_text("file")
    with (
        pytest.raises(GLMError, match="a is a file, a directory was to be written there"),
        atomic_directory(tmp_path / "a"),
    ):
        pass
    assert (tmp_path / "a").read_text() == "file"

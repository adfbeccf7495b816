"""A conversion that is killed, started again, or meets what others left."""

import shutil
from pathlib import Path

import pytest
from checkpoint_samples import same_bits
from conversion_samples import (
    contents,
    convert,
    hf_directory,
)
from safetensors.numpy import load_file, save_file

from glm.checkpoint import journal as journals
from glm.checkpoint import load_state, open_checkpoint
from glm.checkpoint.convert import source_files
from glm.checkpoint.journal import STAGING
from glm.config.glm_config import GLMConfig
from glm.errors import GLMError


class Killed(BaseException):
    """Stands for SIGKILL: nothing of this project catches it."""


def kill_at(monkeypatch, step: int) -> list[str]:
    """Ends the process' work at the so-many-th change of a directory; gives what was changed."""
    done, replace, unlink = [], Path.replace, Path.unlink

    def count(what):
        if len(done) == step:
            raise Killed
        done.append(what)

    def counted_replace(self, target):
        count(Path(target).name)
        return replace(self, target)

    def counted_unlink(self, missing_ok=False):
        count(self.name)
        return unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", counted_replace)
    monkeypatch.setattr(Path, "unlink", counted_unlink)
    return done


def is_readable(directory: Path) -> bool:
    try:
        config = GLMConfig.from_pretrained(str(directory))
        return bool(load_state(directory, config))
    except GLMError:
        return False


@pytest.mark.long
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_at_any_step(tmp_path, monkeypatch, overwrite):
    """What is there is the old model, nothing that reads as a model, or the new one; the same command ends it."""
    source = hf_directory("glm-g2-bias-rope1", tmp_path / "source")
    old = hf_directory("glm4-g2-bias-rope1", tmp_path / "old")
    wanted, target = tmp_path / "wanted", tmp_path / "target"
    options = {"max_shard_size": 60_000, "overwrite": overwrite}
    convert(source, wanted, "hf", **options)
    new, before = contents(wanted), contents(old)
    step = 0
    while True:
        shutil.rmtree(target, ignore_errors=True)
        if overwrite:
            convert(old, target, "hf", max_shard_size=60_000)
            before = contents(target)
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            try:
                convert(source, target, "hf", **options)
                break
            except Killed:
                pass
        found = contents(target) if target.exists() else {}
        assert found == new or (overwrite and found == before) or not is_readable(target)
        convert(source, target, "hf", **options)
        assert contents(target) == new
        assert not (target / STAGING).exists()
        step += 1
    assert step > 8


def unfinished(source: Path, target: Path, monkeypatch, **options) -> None:
    """A conversion that was killed when two of its files were finished."""
    names, add = [], journals.Journal.add

    def stop(self, name):
        if len(names) == 2:
            raise Killed
        names.append(name)
        add(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(journals.Journal, "add", stop)
        with pytest.raises(Killed):
            convert(source, target, "paddle", max_shard_size=16_000, **options)


def test_a_resumed_conversion_writes_the_rest(tmp_path, monkeypatch):
    source, target = hf_directory("glm-g2-bias-rope1", tmp_path / "source"), tmp_path / "target"
    whole = convert(source, tmp_path / "whole", "paddle", max_shard_size=16_000)
    unfinished(source, target, monkeypatch)
    finished = sorted((target / STAGING).glob("*.pdparams"))
    kept = finished[0].stat().st_size
    with pytest.raises(GLMError, match="holds no weights"):
        open_checkpoint(target)
    damaged = finished[1].read_bytes()
    finished[1].write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    report = convert(source, target, "paddle", max_shard_size=16_000)
    assert report.written == whole.written - kept
    assert contents(target) == contents(tmp_path / "whole")


def test_another_source_starts_anew(tmp_path, monkeypatch, caplog):
    source, target = hf_directory("glm-g2-bias-rope1", tmp_path / "source"), tmp_path / "target"
    unfinished(source, target, monkeypatch)
    weights = load_file(source / "model.safetensors")
    save_file({name: array + 1 for name, array in weights.items()}, source / "model.safetensors")
    report = convert(source, target, "paddle", max_shard_size=16_000)
    assert report.written == report.size
    assert f"{source} has changed since {target} was begun: starting anew" in caplog.text
    config = GLMConfig.from_pretrained(str(source))
    assert same_bits(load_state(target, config), load_state(source, config))


def test_another_command_does_not_go_on(tmp_path, monkeypatch):
    source, target = hf_directory("glm-g2-bias-rope1", tmp_path / "source"), tmp_path / "target"
    unfinished(source, target, monkeypatch)
    before = sorted(path.name for path in (target / STAGING).iterdir())
    with pytest.raises(GLMError, match=r"unfinished conversion with --dtype None: finish it .* or remove .*conversion"):
        convert(source, target, "paddle", max_shard_size=16_000, dtype="bfloat16")
    assert sorted(path.name for path in (target / STAGING).iterdir()) == before


def test_two_processes_do_not_write_to_one_directory(tmp_path):
    source, target = hf_directory("glm-g2-bias-rope1", tmp_path / "source"), tmp_path / "target"
    command = {"source": str(source.resolve()), "format": "hf", "dtype": None, "tensor_parallel_degree": 1}
    command |= {"max_shard_size": 5 * 10**9}
    files = journals.fingerprint(source, source_files(source))
    with (
        journals.Journal(target, command, files).opened(),
        pytest.raises(GLMError, match="another process is converting into"),
    ):
        convert(source, target, "hf")


def test_weights_are_replaced_only_on_demand_and_at_the_end(tmp_path, monkeypatch):
    source = hf_directory("glm-g2-bias-rope1", tmp_path / "source")
    target = hf_directory("glm4-g2-bias-rope1", tmp_path / "target")
    (target / "pytorch_model.bin").write_bytes(b"older")
    (target / "notes.md").write_text("mine")
    before = contents(target)
    with pytest.raises(GLMError, match=r"already holds model.safetensors: choose another target, or add --overwrite"):
        convert(source, target, "paddle")
    unfinished(source, target, monkeypatch, overwrite=True)
    assert contents(target) == before
    convert(source, target, "paddle", max_shard_size=16_000, overwrite=True)
    assert not [name for name in contents(target) if name.endswith((".bin", ".safetensors"))]
    assert contents(target)["notes.md"] == b"mine"
    assert is_readable(target)

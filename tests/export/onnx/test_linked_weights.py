"""An export whose files are links, to another disk or into a cache of blobs: the same logits, nothing copied."""

import os
from pathlib import Path

import numpy as np
import pytest
from test_write_step_graph import NAME, export

from glm.errors import GLMError
from glm.runtime.onnx_step import OnnxStepRuntime

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")


@pytest.fixture(scope="module", params=[NAME, "glm4-moe, none shared"])
def written(request, tmp_path_factory):
    """Experts have their weights in parts of the graph."""
    folder = tmp_path_factory.mktemp("export")
    export(folder, name=request.param)
    return folder


def logits(graph: Path) -> np.ndarray:
    runtime = OnnxStepRuntime(graph, 16)
    ids = [5, 6, 7, 8]
    return runtime.prefill(runtime.new_cache(1, 16), 0, ids, np.arange(4)[None], 0, 0)


def move(path: Path, target: Path, relative: bool = False) -> None:
    """Leaves a link in the place of a file."""
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    path.symlink_to(os.path.relpath(target, path.parent) if relative else target)


LINKS = {
    "weights": lambda d: move(d / "m.onnx.data", d.parent / "disk/m.onnx.data"),
    "weights under another name": lambda d: move(d / "m.onnx.data", d.parent / "disk/6f2c"),
    "a relative link": lambda d: move(d / "m.onnx.data", d.parent / "disk/6f2c", relative=True),
    "both": lambda d: [move(d / name, d.parent / "disk" / name) for name in ("m.onnx", "m.onnx.data")],
    "a cache of blobs": lambda d: [move(path, d.parent / "blobs" / path.name[::-1], True) for path in [*d.iterdir()]],
    "the graph alone": lambda d: move(d / "m.onnx", d.parent / "disk/m.onnx"),
    "a link to a link": lambda d: [
        move(d / "m.onnx.data", d.parent / "disk/one"),
        move(d.parent / "disk/one", d.parent / "farther/two"),
    ],
    "the folder": lambda d: move(d, d.parent / "disk/folder"),
    "weights in a folder below": lambda d: move(d / "m.onnx.data", d / "below/m.onnx.data"),
}


@pytest.mark.parametrize("case", LINKS)
def test_the_same_logits(written, tmp_path, case):
    wanted = logits(written / "m.onnx")
    assert wanted.std() > 0
    (folder := tmp_path / "export").mkdir()
    for path in written.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    LINKS[case](folder)
    assert np.array_equal(logits(folder / "m.onnx"), wanted)


def test_a_link_to_nothing(written, tmp_path):
    (tmp_path / "m.onnx").write_bytes((written / "m.onnx").read_bytes())
    (tmp_path / "m.onnx.data").symlink_to(tmp_path / "gone")
    with pytest.raises(GLMError, match=r"^ONNX Runtime cannot load .*m\.onnx: "):
        OnnxStepRuntime(tmp_path / "m.onnx", 16)

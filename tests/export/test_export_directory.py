"""A Paddle export: the loop and the step graph over one file of parameters."""

import numpy as np
import paddle
import pytest
from tiny_chat import KINDS, chat_model, processor_of_tiny

from glm.export.files import read_manifest, start_check
from glm.export.paddle_graphs import _share_parameters, export_directory
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_step import PaddleStepRuntime

pytestmark = pytest.mark.long


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_graph_runs_over_the_parameters_of_the_loop(kind, tmp_path):
    model, processor = chat_model(kind), processor_of_tiny(kind)
    manifest = export_directory(model, processor, tmp_path / "glm", source=kind)
    assert {name for name in manifest.files if name.startswith("glm.")} == {
        "glm.json",
        "glm.pdiparams",
        "glm.step.json",
    }
    assert read_manifest(tmp_path, "glm", "paddle") == manifest
    start_check(tmp_path, manifest).result()
    ids = processor.text_prompt("你好 3+4")
    prefix = processor.positions.prompt_prefix(ids)
    positions = processor.positions.of(ids, prefix)
    arguments = [[ids], [[1] * len(ids)], positions[None], [prefix]]
    wanted = model(*(paddle.to_tensor(np.array(each, dtype="int64")) for each in arguments)).numpy()[0, -1]
    runtime = PaddleStepRuntime(RuntimeOptions(tmp_path / "glm.step.json", tmp_path / "glm.pdiparams", capacity=64))
    found = runtime.prefill(runtime.new_cache(1, 64), 0, ids, positions, 0, prefix)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("equal", [True, False])
def test_only_equal_parameters_are_shared(tmp_path, equal):
    (tmp_path / "glm.pdiparams").write_bytes(b"parameters")
    (tmp_path / "glm.step.pdiparams").write_bytes(b"parameters" if equal else b"Parameters")
    _share_parameters(tmp_path / "glm", tmp_path / "glm.step")
    assert (tmp_path / "glm.step.pdiparams").exists() != equal

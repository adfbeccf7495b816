"""The benchmark of step graphs: what it reads is what it says, and both forms of an export run in it."""

import sys

import pytest

from benchmarks.step_graph import ROWS, main, step_seconds
from glm.encoding.batches import BlockPositions, TextPositions


class Recorder:
    """A runtime that writes down what it is asked for."""

    def __init__(self):
        self.calls = []

    def new_cache(self, slots, max_length):
        return slots, max_length

    def prefill(self, cache, slot, ids, positions, start, prefix_length):
        self.calls.append(("prefill", slot, len(ids), positions.shape, start, prefix_length))

    def copy(self, to, slots, of, sources, positions):
        self.calls.append(("copy", [*slots], sources, positions))

    def decode(self, cache, ids, positions, lengths):
        self.calls.append(("decode", cache, ids.tolist(), positions.tolist(), lengths.tolist()))


@pytest.mark.parametrize(
    ("positions", "prefix", "following"), [(TextPositions(), 0, [4]), (BlockPositions([7]), 3, [1, 2])]
)
def test_every_row_continues_the_prompt(positions, prefix, following):
    runtime, ids = Recorder(), [5, 7, 9, 11]
    assert step_seconds(runtime, positions, ids, 3, rounds=2) >= 0
    assert runtime.calls[0] == ("prefill", 0, 4, (len(following), 4), 0, prefix)
    assert runtime.calls[1] == ("copy", [1, 2], [0, 0], (0, 4))
    assert runtime.calls[2:] == [("decode", (3, 8), [11] * 3, [following] * 3, [4] * 3)] * 3


@pytest.mark.long
@pytest.mark.parametrize("opset", [[], ["--opset", "17"]], ids=["own", "standard"])
def test_an_export(opset, tmp_path, monkeypatch, capsys):
    import export_generation_model

    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    where = ["--model_name_or_path", "glm-4-9b-0414-tiny", "--output_path", str(tmp_path / "glm"), "--format", "onnx"]
    monkeypatch.setattr(sys, "argv", ["export_generation_model.py", *where, *opset])
    export_generation_model.main()
    assert main(["--model_path", str(tmp_path), "--rounds", "2", "--prompt", "20", "--cpu_threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"onnx_runtime, fp32, {'opset 17' if opset else 'onnx'}, 1 threads" in printed
    assert "prompt of 20 tokens" in printed and all(f"step of {rows} rows" in printed for rows in ROWS)
    assert main(["--model_path", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("benchmarks.step_graph: ")

"""predict and infer on the simulated NPU write what they write on the CPU, and an export is the same from both."""

import json
import subprocess
import sys

import pytest
from commands import ROOT

from tests.npu_simulator.launching import environment, needs_compiler

pytestmark = needs_compiler
DECODING = {
    "greedy": ["--min_tgt_length", "12"],
    "nucleus": ["--do_sample", "--temperature", "2", "--top_k", "20", "--top_p", "0.9", "--seed", "6"],
    "beams": ["--num_beams", "4", "--min_tgt_length", "12", "--length_penalty", "1.2", "--no_repeat_ngram_size", "3"],
}
TEXT = "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。"


@pytest.mark.parametrize("way", DECODING)
def test_the_same_texts_as_on_the_cpu(run, run_npu, exported, model, sources, tmp_path, way):
    """From the model and from its graph, byte by byte."""
    few = tmp_path / "few.txt"
    few.write_text("".join(sources.read_text(encoding="utf-8").splitlines(keepends=True)[:5]), encoding="utf-8")
    length = ["--src_length", "64", "--tgt_length", "16"]
    texts = [*length, *DECODING[way], "--input_file", few, "--batch_size", "3", "--output_file"]
    wanted = tmp_path / "cpu.txt"
    on_cpu = run("infer_generation.py", "--model_path", exported[0], "--device", "cpu", *texts, wanted)
    assert on_cpu.code == 0, on_cpu.err
    assert len(wanted.read_text(encoding="utf-8").splitlines()) == 5
    commands = {
        "graph.txt": ["infer_generation.py", "--model_path", exported[0], "--device", "npu:1"],
        "model.txt": ["predict_generation.py", "--model_name_or_path", model, "--device", "npu:1"],
    }
    for name, command in commands.items():
        result = run_npu(*command, *texts, tmp_path / name)
        assert result.code == 0, result.err
        assert (tmp_path / name).read_bytes() == wanted.read_bytes()


def test_the_graph_does_not_depend_on_where_it_was_exported(run_npu, exported, model, tmp_path):
    where = ["--model_name_or_path", model, "--output_path", tmp_path / "glm", "--device", "npu"]
    result = run_npu("export_generation_model.py", *where)
    assert result.code == 0 and result.err == "", result.err
    for name in ("glm.json", "glm.pdiparams", "glm.paddle.manifest.json"):
        assert (tmp_path / name).read_bytes() == (exported[0] / name).read_bytes()


MEMORY = """
import glm, json, sys
import paddle
import infer_generation
from glm.inference.exported import open_export

open_export(infer_generation.export_options(infer_generation.parse()))
print(json.dumps([paddle.device.max_memory_allocated(f"npu:{number}") for number in (0, 1)]))
"""


def test_the_weights_come_to_the_device_that_was_named(exported):
    where = ["--model_path", str(exported[0]), "--device", "npu", "--device_id", "1"]
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, *where]
    variables = environment(NPU_SIMULATOR_DEVICES="2", GLOG_minloglevel="2")
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first == 0
    assert second >= (exported[0] / "glm.pdiparams").stat().st_size * 0.99


@pytest.mark.parametrize("where", [["--device", "npu:5"], ["--device", "npu", "--device_id", "5"]])
def test_a_device_too_many(run_npu, exported, where):
    result = run_npu("infer_generation.py", "--model_path", exported[0], *where, TEXT)
    assert result.code == 2
    assert result.err == "error: device 'npu:5' is not on this machine, which has 4 npus, npu:0 to npu:3\n"


def test_what_the_npu_lacks_is_one_line(exported):
    """The plugin loses a kernel: no text is generated, and the line says which it is."""
    command = [sys.executable, "infer_generation.py", "--model_path", str(exported[0]), "--device", "npu", TEXT]
    variables = environment(CUSTOM_DEVICE_BLACK_LIST="strided_copy")
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: npu:0 cannot do generation: it lacks strided copies (")
    assert done.stderr.count("\n") == 1

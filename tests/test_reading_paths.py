"""How many files of glm/ one reads to follow a forward pass, or a token from an export: those whose code runs.

Functions of glm/kernels/ are operators to the reader, as Paddle's own are.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_glm import pair_batch, random_pairs, tiny_model

from glm import GenerationConfig, GLMTokenizer
from glm.encoding.processor import GLMProcessor
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.inference.exported import EngineGenerator
from glm.runtime.onnx_step import OnnxStepRuntime

PACKAGE = Path(__file__).resolve().parents[1] / "glm"
MOST = 10


def entered(call: Callable[[], object]) -> list[str]:
    """The files of the package, in the order in which a call first runs code of theirs."""
    seen: dict[str, None] = {}

    def profile(frame, event, _):
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{PACKAGE}/") and frame.f_code.co_name != "<module>":
            seen.setdefault(path.removeprefix(f"{PACKAGE}/"))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    # Where kernels serve, and what plain operators they stand for, is no part of what is computed.
    return [file for file in seen if not file.startswith("kernels/")]


@pytest.fixture(scope="module")
def processor() -> GLMProcessor:
    return GLMProcessor(GLMTokenizer.from_pretrained("glm-tiny-chinese"), src_length=24, tgt_length=12)


def assert_short(files: list[str], *through: str) -> None:
    """At most so many, and all that it must be: a path that was not walked would be short as well."""
    assert set(through) <= set(files)
    assert len(files) <= MOST, f"{len(files)} files: {', '.join(files)}"


def test_a_forward_pass_with_its_loss(processor, without_kernels):
    model, batch = tiny_model(), pair_batch(processor, random_pairs(processor.tokenizer, [(5, 4), (7, 6)]))
    model.train()
    files = entered(lambda: model(**batch, label_smoothing=0.1))
    assert_short(
        files, "api/causal_lm.py", "model/network.py", "model/attention.py", "model/layers.py", "model/loss.py"
    )


def test_a_token_from_an_export(processor, tmp_path):
    """From what asks the engine for it to the id; how ids become text is another path."""
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    model = tiny_model()
    weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
    write_step_graph(model.config, weights, weights_of("fp32"), tmp_path / "glm")
    generator = EngineGenerator(OnnxStepRuntime(tmp_path / "glm.onnx", capacity=64, threads=1), processor)
    tokens = generator.stream_tokens(processor.text_prompt("祥信塔共有9层"), GenerationConfig(10, min_length=10))
    next(tokens), next(tokens)  # the prompt is read
    files = entered(lambda: next(tokens))
    assert_short(files, "inference/exported.py", "engine/engine.py", "engine/search.py", "runtime/onnx_step.py")

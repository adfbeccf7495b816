"""Step graphs of the tiny models in every runtime, as they are written now and as they were up to format version 4."""

from functools import cache

import onnx
import paddle
import pytest
from onnx import TensorProto, helper
from paddle import nn

from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.export.paddle_step import export_step_graph, read, step_spec
from glm.model.tracing import save_graph
from glm.runtime.onnx_columns import OnnxColumnRuntime
from glm.runtime.onnx_step import OnnxStepRuntime
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_step import PaddleStepRuntime

CAPACITY = 256


class OldStepGraph(nn.Layer):
    """Logits [B, V] of the last token alone, and no input that says otherwise."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, position_ids, lengths, prefix_length, past):
        columns = paddle.ones_like(input_ids).sum(axis=1, keepdim=True) - 1
        logits, new = read(self.model, input_ids, position_ids, lengths, prefix_length, columns, past)
        return logits.squeeze(1), new


def write_paddle(model, prefix):
    export_step_graph(model, prefix)


def write_old_paddle(model, prefix):
    graph = OldStepGraph(model)
    graph.eval()
    save_graph(graph, [spec for spec in step_spec(model) if getattr(spec, "name", "") != "last"], prefix)


def write_onnx(model, prefix):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
    write_step_graph(model.config, weights, weights_of("fp32"), prefix)


def write_standard(model, prefix):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
    weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
    write_step_graph(model.config, weights, weights_of("fp32", opset=17), prefix)


def write_old_onnx(model, prefix):
    """`last` [B] and logits [B, V]."""
    write_onnx(model, prefix)
    path = prefix.with_name(f"{prefix.name}.onnx")
    written = onnx.load(path, load_external_data=False)
    graph = written.graph
    for node in graph.node:
        node.input[:] = ["last_columns" if name == "last" else name for name in node.input]
        node.output[:] = ["column_logits" if name == "logits" else name for name in node.output]
    graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    graph.node.insert(0, helper.make_node("Unsqueeze", ["last", "one"], ["last_columns"]))
    graph.node.append(helper.make_node("Squeeze", ["column_logits", "one"], ["logits"]))
    (last,) = (each for each in graph.input if each.name == "last")
    last.CopyFrom(helper.make_tensor_value_info("last", TensorProto.INT64, ["B"]))
    (logits,) = (each for each in graph.output if each.name == "logits")
    logits.CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", model.config.vocab_size]))
    path.write_bytes(written.SerializeToString())


def open_onnx(prefix) -> OnnxStepRuntime:
    return OnnxStepRuntime(prefix.with_name(f"{prefix.name}.onnx"), CAPACITY, threads=1)


def open_standard(prefix) -> OnnxColumnRuntime:
    return OnnxColumnRuntime(prefix.with_name(f"{prefix.name}.onnx"), CAPACITY, threads=1)


def open_paddle(prefix) -> PaddleStepRuntime:
    files = (prefix.with_name(f"{prefix.name}{suffix}") for suffix in (".json", ".pdiparams"))
    return PaddleStepRuntime(RuntimeOptions(*files, capacity=CAPACITY))


# (backend, whether it is an old graph) → how it is written and opened.
GRAPHS = {
    ("onnx", "new"): (write_onnx, open_onnx),
    ("onnx", "old"): (write_old_onnx, open_onnx),
    ("standard", "new"): (write_standard, open_standard),
    ("paddle", "new"): (write_paddle, open_paddle),
    ("paddle", "old"): (write_old_paddle, open_paddle),
}


def runtimes(cases, folder):
    """(backend, age, name) → its runtime, written and opened once."""

    @cache
    def runtime(backend: str, age: str, name: str):
        write, opened = GRAPHS[backend, age]
        prefix = folder / f"{backend}-{age}-{name}"
        write(cases[name].model, prefix)
        return opened(prefix)

    return runtime

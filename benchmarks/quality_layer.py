"""The error of one quantized matmul at the width of a large model, where blocks are full and many."""

from dataclasses import dataclass

import numpy as np
import onnxruntime
from onnx import TensorProto

from glm.export.onnx.layers import Layer
from glm.export.onnx.quantize import Blocks
from glm.export.onnx.weights import QuantizedWeights

SHAPE = (4096, 4608)  # GLM-4-9B's query, key and value together
TOKENS = 16
DEGREES = 5  # of freedom: large weights are rare in trained models too, but less than a normal distribution says
BLOCK_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class LayerError:
    """Attributes: bits: a weight takes, scales and zero points included; normal, heavy: root mean square of the
    outputs' error over that of the outputs, of weights of two distributions."""

    kind: str
    bits: float
    normal: float
    heavy: float


def layer_errors() -> list[LayerError]:
    """Of every block size, 8 and 4 bits, with and without zero points."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((TOKENS, SHAPE[0]), dtype="float32")
    matrices = draw.standard_normal(SHAPE, dtype="float32"), draw.standard_t(DEGREES, SHAPE).astype("float32")
    wanted = [x @ matrix for matrix in matrices]
    ways = [Blocks(bits, block, symmetric) for bits in (8, 4) for block in BLOCK_SIZES for symmetric in (True, False)]
    found = []
    for blocks in ways:
        kind = f"int{blocks.bits}, {blocks.block}" + ("" if blocks.symmetric else ", asymmetric")
        bits = blocks.bits + (32 + (0 if blocks.symmetric else blocks.bits)) / blocks.block
        errors = [relative(product(x, m, blocks), exact) for m, exact in zip(matrices, wanted, strict=True)]
        found.append(LayerError(kind, bits, *errors))
    return found


def product(x: np.ndarray, matrix: np.ndarray, blocks: Blocks) -> np.ndarray:
    """x [T, K] times a matrix [K, N], quantized as an export has it."""
    weights = QuantizedWeights(blocks)
    graph = weights.operators.graph()
    graph.input("x", TensorProto.FLOAT, ["T", SHAPE[0]])
    weights.linear(graph, "x", "layer", [Layer("layer", SHAPE, bias=False)])
    graph.name_result("y")
    graph.output("y", TensorProto.FLOAT, ["T", SHAPE[1]])
    writes = graph.data.fillings["layer.weight"][0].writes(matrix)
    arrays = {slot.name: np.zeros(slot.shape, slot.dtype) for slot in graph.data.slots}
    for write in writes:
        arrays[write.slot.name][write.region] = write.numbers
    model, options = graph.model("layer.data"), onnxruntime.SessionOptions()
    names = list(arrays)
    options.add_external_initializers(names, [onnxruntime.OrtValue.ortvalue_from_numpy(arrays[n]) for n in names])
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))

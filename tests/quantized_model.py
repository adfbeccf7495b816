"""A Paddle model that computes as an 8-bit export of standard operators does, with exact sums.

Written from glm/export/onnx/columns.py's description, not with its code: weights by the largest number of their column,
activations by that of their token.
"""

import copy

import numpy as np
import paddle
from paddle import Tensor, nn

from glm import GLMForCausalLM
from glm.model.experts import Experts


def in_8_bits(model: GLMForCausalLM) -> GLMForCausalLM:
    """A copy of a model without LoRA adapters."""
    model = copy.deepcopy(model)
    for layer in model.sublayers():
        if isinstance(layer, nn.Linear):
            layer.forward = _linear(layer.weight.numpy(), None if layer.bias is None else layer.bias.numpy())
        if isinstance(layer, Experts):
            layer.forward = _experts(layer)
    table = model.model.embed_tokens.weight
    if model.lm_head is None:
        model.logits = _linear(table.numpy().T, None)
    numbers, scales = _quantized(table.numpy(), axis=1)
    table.set_value(numbers * scales)
    return model


def _quantized(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127, and their scales, float32."""
    scales = np.abs(array).max(axis=axis, keepdims=True) / np.float32(127)
    return np.round(array / scales), scales


def _linear(weight_KN: np.ndarray, bias_N: np.ndarray | None):
    """x [..., K] → [..., N]."""
    weights, scales_1N = _quantized(weight_KN, axis=0)

    def forward(x: Tensor) -> Tensor:
        array = x.numpy()
        scales = np.abs(array).max(axis=-1, keepdims=True) * np.float32(1 / 127)
        found = np.round(array / np.maximum(scales, 1e-30)).astype("float64") @ weights.astype("float64")
        found = found.astype("float32") * scales * scales_1N[0]
        return paddle.to_tensor(found if bias_N is None else found + bias_N)

    return forward


def _experts(layer: Experts):
    """Each of them on every token; those that a token does not take weigh nothing."""
    stacks = (part.weight.numpy() for part in (layer.gate_proj, layer.up_proj, layer.down_proj))
    mlps = [[_linear(matrix, None) for matrix in expert] for expert in zip(*stacks, strict=True)]

    def forward(x_MH: Tensor, chosen_MJ: Tensor, weights_MJ: Tensor) -> Tensor:
        weights_MA = paddle.zeros([x_MH.shape[0], len(mlps)]).put_along_axis(chosen_MJ, weights_MJ, axis=1)
        made = (down(layer.activation(gate(x_MH)) * up(x_MH)) for gate, up, down in mlps)
        return sum(y_MH * weights_MA[:, i : i + 1] for i, y_MH in enumerate(made))

    return forward

"""LoRA of experts: x·W + dropout(x)·A·B·scaling, with matrices [A, in, r] and [A, r, out] for all experts of a layer.

PaddleNLP has adapters of linear layers only, so these stand in the stacks themselves (glm/model/experts.py). Files have
one adapter an expert (glm/checkpoint/expert_stacks.py), as transformers 4 and PEFT named them.
"""

from collections.abc import Iterator

import paddle
from paddle import Tensor, nn

from glm.distributed.plan import COLUMN, PLAN
from glm.distributed.tensor_parallel import Ranks
from glm.model.experts import GroupedMatmul, StackedLinear


class ExpertAdapter:
    """What a `StackedLinear` adds to its product, once it has the matrices lora_A and lora_B.

    Of a projection that ranks cut by columns they share the first matrix, of one that they cut by rows the second: each
    has a part of that one's gradient, and `Ranks.copy` adds them up.
    """

    def __init__(self, layer: StackedLinear, by_columns: bool, scaling: float, ranks: Ranks):
        self.layer, self.scaling, self.enabled = layer, scaling, True
        self._first = ranks.copy if by_columns else lambda x: x
        self._second = (lambda x: x) if by_columns else ranks.copy

    def __call__(self, x_ZI: Tensor, y_ZO: Tensor, counts: list[int]) -> Tensor:
        if not self.enabled:
            return y_ZO
        dtype, layer = y_ZO.dtype, self.layer
        with paddle.amp.auto_cast(enable=False):
            a, b = self._first(layer.lora_A).astype(dtype), self._second(layer.lora_B).astype(dtype)
            low_Zr = GroupedMatmul.apply(layer.lora_dropout(x_ZI).astype(dtype), a, counts)
            return y_ZO + GroupedMatmul.apply(low_Zr, b, counts) * self.scaling

    def merge(self) -> None:
        """Adds the product into the weight, in float32; the layer is then a plain one."""
        layer = self.layer
        with paddle.no_grad():
            change = paddle.matmul(layer.lora_A.astype("float32"), layer.lora_B.astype("float32")) * self.scaling
            layer.weight.set_value((layer.weight.astype("float32") + change).astype(layer.weight.dtype))
        del layer.lora_A, layer.lora_B, layer.lora_dropout
        layer.adapter = None


def add_expert_adapters(model: nn.Layer, r: int, alpha: float, dropout: float) -> None:
    """Gives every projection of every expert an adapter of rank r; both matrices are zero until they are set."""
    for name, layer in stacks(model):
        experts, inputs, outputs = layer.weight.shape
        by_columns = PLAN[name.rpartition(".")[2]] == COLUMN
        layer.lora_A = layer.create_parameter([experts, inputs, r], dtype=layer.weight.dtype)
        layer.lora_B = layer.create_parameter([experts, r, outputs], dtype=layer.weight.dtype)
        own = layer.lora_B if by_columns else layer.lora_A
        own.is_distributed = layer.weight.is_distributed
        layer.lora_dropout = nn.Dropout(dropout)
        layer.adapter = ExpertAdapter(layer, by_columns, alpha / r, Ranks(model.config))


def stacks(model: nn.Layer) -> Iterator[tuple[str, StackedLinear]]:
    """The projections of experts in a model, by name."""
    return ((name, layer) for name, layer in model.named_sublayers() if isinstance(layer, StackedLinear))


def expert_adapters(model: nn.Layer) -> list[ExpertAdapter]:
    """Those that a model has."""
    return [layer.adapter for _, layer in stacks(model) if layer.adapter is not None]

"""PaddleNLP's LoRA layers under sequence parallelism: x·W + dropout(x)·A·B·scaling, of each rank's own tokens.

What crosses between the ranks for an adapter has its rank r as width, in place of H. Shapes: B rows, T tokens, n ranks.
"""

from paddle import Tensor, nn
from paddlenlp.peft.lora.lora_layers import ColumnParallelLoRALinear, LoRALinear, RowParallelLoRALinear

from glm.distributed.plan import split_axis
from glm.distributed.sequence_parallel import (
    GathersTokens,
    ScattersTokens,
    add_up_gradients,
    gather_tokens,
    scatter_sum,
)
from glm.distributed.tensor_parallel import has_own_tokens


class GatheringLoRA(GathersTokens, ColumnParallelLoRALinear):
    """In training [B, T/n, in] → [B, T, out / n]."""

    def finish(self, x: Tensor, product: Tensor) -> Tensor:
        y = super().finish(x, product)
        if self.merged or self.disable_lora:
            return y
        low_BTr = gather_tokens(self.lora_dropout(x) @ self.lora_A, self.model_parallel_group)
        return y + (low_BTr @ self.lora_B) * self.scaling


class ScatteringLoRA(ScattersTokens, RowParallelLoRALinear):
    """In training [B, T, in / n] → [B, T/n, out]."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.training or self.merged or self.disable_lora:
            return y
        low_BTr = scatter_sum(self.lora_dropout(x) @ self.lora_A, self.model_parallel_group)
        return y + (low_BTr @ self.lora_B) * self.scaling


_LAYERS = {ColumnParallelLoRALinear: GatheringLoRA, RowParallelLoRALinear: ScatteringLoRA}
_ADAPTED = (LoRALinear, *_LAYERS)  # the first one is whole on every rank


def divide_tokens(model: nn.Layer) -> None:
    """Makes the adapters that PaddleNLP put into a `GLMNetwork` those of this module."""
    adapters = []
    for name, layer in model.named_sublayers():
        if isinstance(layer, _ADAPTED) and has_own_tokens(model.config, name.rpartition(".")[2]):
            # PaddleNLP chooses the class itself, and leaves no way to give it another one.
            layer.__class__ = _LAYERS.get(type(layer), type(layer))
            parts = layer.named_parameters(name, include_sublayers=False)
            adapters += [p for part, p in parts if ".lora_" in part and split_axis(part) is None]
    add_up_gradients(model, model.ranks, adapters)

"""A model as one static graph that reads tokens into a key/value cache: a prompt at once, in chunks, or a token per
row.

Inputs: input_ids [B, T], position_ids [B, P, T], lengths [B] (positions of the cache that each sequence has read),
prefix_length [B] (leading new tokens that see each other in both directions), last [B, M] (columns whose logits leave),
all int64; then past_key_i and past_value_i [B, K, C, D] of every layer i, or past_latent_i, which is both. Outputs:
logits [B, M, V], and these parts of the new tokens [parts, B, K, T, D], float32. The graph never writes into the cache:
the caller stores them (glm/runtime/paddle_step.py).
"""

from pathlib import Path

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from glm.config.shapes import cache_shapes
from glm.model.attention import select_beams
from glm.model.caches import stepped, stepping
from glm.model.tracing import dim, save_graph
from glm.model.visibility import attention_bias, key_bias


class StepGraph(nn.Layer):
    """One call of a `GLMForCausalLM` as the forward of a layer, which is what Paddle traces."""

    def __init__(self, model: nn.Layer):
        super().__init__()
        self.model = model

    def forward(self, input_ids, position_ids, lengths, prefix_length, last, past: list[Tensor]):
        return read(self.model, input_ids, position_ids, lengths, prefix_length, last, past)


def read(
    model,
    ids_BT: Tensor,
    position_ids_BPT: Tensor,
    lengths_B: Tensor,
    prefix_length_B: Tensor,
    last_BM: Tensor,
    past: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Reads tokens that continue a cache; arguments and results are the graph's."""
    config = model.config
    column_C = paddle.arange(dim(past[0], 2), dtype="int64")
    past_bias = key_bias(column_C.unsqueeze(0) < lengths_B.unsqueeze(1))
    new_bias = attention_bias(paddle.ones_like(ids_BT), prefix_length_B)
    attention_fns = stepping(config, past, past_bias, new_bias)
    hidden_BTH = model.model(ids_BT, position_ids_BPT, attention_fns)
    new = paddle.stack(stepped(attention_fns))
    hidden_BMH = select_beams(hidden_BTH, last_BM)
    return model.logits(hidden_BMH).astype("float32"), new.astype("float32")


def export_step_graph(model: nn.Layer, prefix: Path) -> None:
    """Writes `prefix`.json and `prefix`.pdiparams, with the parameters of the whole loop's file.

    Args:
        model: a `GLMForCausalLM` without LoRA adapters, on one device.
    """
    graph = StepGraph(model)
    graph.eval()
    save_graph(graph, step_spec(model), prefix)


def step_spec(model: nn.Layer) -> list:
    config = model.config
    rows = model.model.positions.position_rows
    return [
        InputSpec([None, None], "int64", "input_ids"),
        InputSpec([None, rows, None], "int64", "position_ids"),
        InputSpec([None], "int64", "lengths"),
        InputSpec([None], "int64", "prefix_length"),
        InputSpec([None, None], "int64", "last"),
        [
            InputSpec([None, heads, None, width], config.dtype, f"past_{part}_{layer}")
            for layer, parts in enumerate(cache_shapes(config))
            for part, (heads, width) in parts
        ],
    ]

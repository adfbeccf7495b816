"""A trained model as one static graph: prompt and decoding options in, tokens and scores out."""

import sys
from pathlib import Path
from types import SimpleNamespace

import paddle
from paddle import Tensor, nn
from paddle.static import InputSpec

from glm.generation import Prompt, StopTokens, generate
from glm.generation_config import CONTROL_DTYPES

PROMPT_SPEC = {
    "input_ids": InputSpec([None, None], "int64", "input_ids"),
    "attention_mask": InputSpec([None, None], "int64", "attention_mask"),
    "position_ids": InputSpec([None, None, None], "int64", "position_ids"),
    "prefix_length": InputSpec([None], "int64", "prefix_length"),
    "position_step": InputSpec([None], "int64", "position_step"),
}
CONTROL_SPEC = {name: InputSpec([], dtype, name) for name, dtype in CONTROL_DTYPES.items()}


class GenerationGraph(nn.Layer):
    """The whole generation as the forward of a layer, which is what Paddle traces."""

    def __init__(self, model: nn.Layer, stop: StopTokens):
        super().__init__()
        self.model, self.stop = model, stop

    def forward(self, prompt: dict[str, Tensor], control: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return generate(self.model, Prompt(**prompt), SimpleNamespace(**control), self.stop)


def export_graph(model: nn.Layer, stop: StopTokens, prefix: Path) -> None:
    """Writes `prefix`.json and `prefix`.pdiparams."""
    graph = GenerationGraph(model, stop)
    graph.eval()
    own = [module for name, module in sys.modules.items() if name == "glm" or name.startswith("glm.")]
    paddle.jit.ignore_module(own)
    static = paddle.jit.to_static(graph, input_spec=[PROMPT_SPEC, CONTROL_SPEC], full_graph=True)
    paddle.jit.save(static, str(prefix))

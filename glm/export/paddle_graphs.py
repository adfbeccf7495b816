"""A trained model as one static graph: prompt and decoding options in, tokens and scores out."""

import errno
import filecmp
import os
from pathlib import Path
from types import SimpleNamespace

from paddle import Tensor, nn
from paddle.static import InputSpec

from glm.encoding.processor import Processor
from glm.export.files import FORMAT_VERSION, Manifest
from glm.export.paddle_step import export_step_graph
from glm.export.writing import write_export, write_side_files
from glm.generation.options import CONTROL_DTYPES, SUPPRESSED
from glm.generation.search import Prompt, StopTokens, generate
from glm.model.tracing import save_graph

PROMPT_SPEC = {
    "input_ids": InputSpec([None, None], "int64", "input_ids"),
    "attention_mask": InputSpec([None, None], "int64", "attention_mask"),
    "position_ids": InputSpec([None, None, None], "int64", "position_ids"),
    "prefix_length": InputSpec([None], "int64", "prefix_length"),
    "position_step": InputSpec([None], "int64", "position_step"),
}
KINDS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # of `Manifest.weights`, by dtype
CONTROL_SPEC = {
    name: InputSpec([None] if name in SUPPRESSED else [], dtype, name) for name, dtype in CONTROL_DTYPES.items()
}


class GenerationGraph(nn.Layer):
    """The full generation loop as the forward of a layer, which is what Paddle traces."""

    def __init__(self, model: nn.Layer, stop: StopTokens):
        super().__init__()
        self.model, self.stop = model, stop

    def forward(self, prompt: dict[str, Tensor], control: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return generate(self.model, Prompt(**prompt), SimpleNamespace(**control), self.stop)


def export_graph(model: nn.Layer, stop: StopTokens, prefix: Path) -> None:
    """Writes `prefix`.json and `prefix`.pdiparams: greedy search, sampling and beam search in one graph.

    Inputs are the fields of `Prompt` and of `GenerationConfig` by name; outputs the tokens [B, t] and scores [B] of
    `GLMForCausalLM.generate`.
    """
    graph = GenerationGraph(model, stop)
    graph.eval()
    save_graph(graph, [PROMPT_SPEC, CONTROL_SPEC], prefix)


def export_directory(model: nn.Layer, processor: Processor, prefix: Path, source: str | None = None) -> Manifest:
    """Writes all that inference needs beside each other: graphs, configuration, tokenizer, and their manifest.

    Args:
        model: a `GLMForCausalLM` without LoRA adapters (merge them first).
        processor: of its prompts.
        prefix: path and common beginning of the graph's files, such as checkpoints/infer/glm.
        source: the model, as it was named; where it was read from if not given.

    Raises:
        GLMError: as `glm.export.writing.write_export`.
    """
    config = model.config
    draft = Manifest(
        format_version=FORMAT_VERSION,
        format="paddle",
        source=source or str(getattr(model, "source_directory", "a model in memory")),
        dtype=config.dtype,
        weights=KINDS[config.dtype],
        block_size=None,
        symmetric=None,
        head_bits=None,
        vocab_size=config.vocab_size,
        max_position=config.max_position,
        parameters=int(sum(p.size for p in model.parameters())),
        files={},
    )
    needed = sum(p.size * p.element_size() for p in model.parameters())

    def graphs(staged: Path) -> None:
        step = staged.with_name(f"{staged.name}.step")
        export_graph(model, StopTokens.of(processor), staged)
        _require_whole(_parameters(staged), needed)
        export_step_graph(model, step)
        _require_whole(_parameters(step), needed)
        _share_parameters(staged, step)

    # Each graph writes a file of parameters, and only then are they compared.
    return write_export(
        prefix, draft, 2 * needed, lambda directory: write_side_files(config, processor, directory), graphs
    )


def _parameters(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.pdiparams")


def _share_parameters(loop: Path, step: Path) -> None:
    """Removes the step graph's file of parameters where it is the loop's once more."""
    if filecmp.cmp(_parameters(loop), _parameters(step), shallow=False):
        _parameters(step).unlink()


def _require_whole(weights: Path, needed: int) -> None:
    """Paddle does not say so when it cannot write all of the weights."""
    if weights.stat().st_size < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

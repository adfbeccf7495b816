"""A trained model as one static graph: prompt and decoding options in, tokens and scores out."""

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from paddle import Tensor, nn
from paddle.static import InputSpec

from glm.datasets.encoding import Encoder
from glm.errors import GLMError
from glm.export_files import FORMAT_VERSION, GRAPH_SUFFIXES, ExportInfo, info_path
from glm.generation import Prompt, StopTokens, generate
from glm.generation_config import CONTROL_DTYPES
from glm.tracing import save_graph

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
    """Writes `prefix`.json and `prefix`.pdiparams: greedy search, sampling and beam search in one graph.

    Inputs are the fields of `Prompt` and of `GenerationConfig` by name; outputs the tokens [B, t] and scores [B] of
    `GLMForCausalLM.generate`.
    """
    graph = GenerationGraph(model, stop)
    graph.eval()
    save_graph(graph, [PROMPT_SPEC, CONTROL_SPEC], prefix)


def export_directory(model: nn.Layer, encoder: Encoder, prefix: Path) -> ExportInfo:
    """Writes all that inference needs beside each other: graph, tokenizer, and what connects them.

    Args:
        model: a `GLMForCausalLM` without LoRA adapters (merge them first).
        encoder: its text side.
        prefix: path and common beginning of the graph's files, such as checkpoints/infer/glm.

    Raises:
        GLMError: a file stands where the directory should be, or the disk is full.
    """
    directory = prefix.parent
    if directory.exists() and not directory.is_dir():
        raise GLMError(f"{directory} is a file; output_path needs a directory and a name in it, such as infer/glm")
    directory.mkdir(parents=True, exist_ok=True)
    info = ExportInfo(
        format_version=FORMAT_VERSION,
        dtype=model.config.dtype,
        vocab_size=model.config.vocab_size,
        max_position=model.config.max_position_embeddings,
        parameters=int(sum(p.size for p in model.parameters())),
    )
    needed = sum(p.size * p.element_size() for p in model.parameters())
    with _staging(directory, needed) as staging:
        export_graph(model, StopTokens.of(encoder), staging / prefix.name)
        # Paddle does not say so when it cannot write all of the weights.
        if (staging / f"{prefix.name}{GRAPH_SUFFIXES[-1]}").stat().st_size < needed:
            raise OSError(errno.ENOSPC, "weights cut short")
        encoder.save_pretrained(staging)
        info_path(staging / prefix.name).write_text(json.dumps(vars(info), indent=2) + "\n", encoding="utf-8")
        for path in sorted(staging.iterdir()):
            path.replace(directory / path.name)
    return info


@contextmanager
def _staging(directory: Path, needed: int) -> Iterator[Path]:
    """A directory beside the export to build it in, so that a full disk harms no earlier one."""
    try:
        if shutil.disk_usage(directory).free < needed:
            raise OSError(errno.ENOSPC, "too little room")
        with tempfile.TemporaryDirectory(prefix=".export-", dir=directory) as staging:
            yield Path(staging)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise GLMError(
            f"nothing was exported to {directory} (no space left on device): {needed:,} bytes needed for the weights, "
            f"{shutil.disk_usage(directory).free:,} free; make room or choose another output_path"
        ) from error

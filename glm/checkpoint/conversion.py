"""What a conversion is asked for, and what it reports."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm.checkpoint.megatron_write import Ranks
from glm.errors import GLMError
from glm.files.sizes import in_words


@dataclass(frozen=True)
class Form:
    """What a directory can be converted to.

    Attributes:
        weight_format: key of `file_names.FILE_NAMES`, or `megatron`.
        torch_layout: linear weights lie [out, in].
        families: family of the source → that of the target, where it changes; None where there is no such form.
    """

    weight_format: str
    torch_layout: bool
    families: dict[str, str | None]


# Families that no repository with remote code has.
_NO_REMOTE = ("glm4-0414", "glm4-moe", "glm4-moe-lite")
FORMS = {
    # What today's transformers opens without remote code, where it can.
    "hf": Form("safetensors", True, {"glm4-remote": "glm4", "chatglm2": "chatglm2-hf"}),
    # What the repositories with remote code hold.
    "remote": Form("safetensors", True, dict.fromkeys(_NO_REMOTE) | {"glm4": "glm4-remote", "chatglm2-hf": "chatglm2"}),
    "paddle": Form("pdparams", False, {}),
    # What Megatron-LM and MindSpeed-LLM train.
    "mcore": Form("megatron", True, {}),
}


@dataclass(frozen=True)
class Conversion:
    """What to convert.

    Attributes:
        source, target: directories.
        format: key of `FORMS`.
        dtype: of the written weights; the source's own if not given.
        degree: of tensor parallelism; with more than 1 each rank has its own file.
        stages, layers, multiple: as of `megatron_write.Ranks`, for mcore alone.
        max_shard_size: bytes of tensors in one file; tensor-parallel files are not divided.
        overwrite: take the place of the model that the target holds, tokenizer included.
    """

    source: Path
    target: Path
    format: str
    dtype: str | None = None
    degree: int = 1
    stages: int = 1
    layers: tuple[int, ...] | None = None
    multiple: int = 1
    max_shard_size: int = 5 * 10**9
    overwrite: bool = False

    def check(self) -> None:
        """Raises GLMError for paths that cannot be these, and for ranks that the format has none of."""
        source, target = self.source, self.target
        if not source.is_dir():
            raise GLMError(f"{source} is not a directory: give the directory that holds the model's files")
        if target.exists() and not target.is_dir():
            raise GLMError(f"{target} is a file: choose a directory")
        if source.resolve() == target.resolve():
            raise GLMError(f"source and target are both {source}: choose another target")
        if self.degree < 1 or (self.degree > 1 and self.form.weight_format == "safetensors"):
            raise GLMError(
                f"tensor_parallel_degree {self.degree} with format {self.format}: only paddle and mcore have files by "
                f"rank, the others hold whole weights that any degree reads"
            )
        if self.stages < 1 or (self.stages > 1 and self.format != "mcore"):
            raise GLMError(
                f"pipeline_parallel_degree {self.stages} with format {self.format}: only mcore has files by stage"
            )
        if self.format != "mcore" and (self.layers or self.multiple != 1):
            name = "num_layer_list" if self.layers else "make_vocab_size_divisible_by"
            raise GLMError(f"{name} {self._megatron[name]} with format {self.format}: only mcore has it")

    @property
    def form(self) -> Form:
        return FORMS[self.format]

    @property
    def ranks(self) -> Ranks | None:
        """Of a Megatron checkpoint, None for other formats."""
        return Ranks(self.degree, self.stages, self.layers, self.multiple) if self.format == "mcore" else None

    @property
    def command(self) -> dict[str, Any]:
        """What a later call must repeat to continue this one."""
        return {
            "source": str(self.source.resolve()),
            "format": self.format,
            "dtype": self.dtype,
            "tensor_parallel_degree": self.degree,
            "max_shard_size": self.max_shard_size,
            **(self._megatron if self.ranks else {}),
        }

    @property
    def _megatron(self) -> dict[str, Any]:
        return {
            "pipeline_parallel_degree": self.stages,
            "num_layer_list": ",".join(map(str, self.layers)) if self.layers else None,
            "make_vocab_size_divisible_by": self.multiple,
        }


@dataclass(frozen=True)
class Report:
    """What a conversion did: of the whole model; `written` and `seconds` of this call. Sizes in bytes."""

    files: int
    tensors: int
    parameters: int
    size: int
    written: int
    seconds: float
    peak_memory: int

    def table(self) -> dict[str, str]:
        """For people."""
        return {
            "weight files": f"{self.files}",
            "tensors": f"{self.tensors:,}",
            "parameters": f"{self.parameters:,}",
            "size": in_words(self.size),
            "written by this run": in_words(self.written),
            "seconds": f"{self.seconds:.1f}",
            "speed": f"{in_words(self.written / max(self.seconds, 1e-9))}/s",
            "peak memory above the start": in_words(self.peak_memory),
        }

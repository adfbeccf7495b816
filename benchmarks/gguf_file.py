"""A checkpoint of GLM-4 or GLM-4.5 as GGUF files for llama.cpp: as it is, and quantized by llama.cpp's own quantizer.

    python -m benchmarks.gguf_file DIRECTORY TYPE …     (in the peers' environment)

Reads DIRECTORY/hf, float32 or bfloat16, and writes DIRECTORY/gguf/TYPE.gguf; memory holds one tensor at a time. GLM-4
is llama.cpp's `chatglm`: fused query, key and value, fused gate and up, and pairs of neighbouring numbers that turn
together. GLM-4.5 is its `glm4moe`.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gguf_names import FORMS, gguf_names, tell
from benchmarks.stored_tensors import BFLOAT16, as_float32, stored_tensors
from benchmarks.vocabulary import SPECIAL, gguf_tokens

FLOAT, HALF = "f32", "bf16"
# Type → name of a constant, of the gguf package and of llama.cpp.
FILE_TYPES = {FLOAT: "ALL_F32", HALF: "MOSTLY_BF16"}
QUANTIZED = {"q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}
TYPES = (FLOAT, HALF, *QUANTIZED)


@dataclass(frozen=True)
class Joined:
    """A tensor of a GGUF file, which is read when it is asked for.

    Attributes:
        parts: whose rows lie one below the other, or that lie on top of each other.
        stacked: the latter, along a new first axis.
    """

    parts: tuple[np.ndarray, ...]
    stacked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        rows, *rest = self.parts[0].shape
        return (len(self.parts), rows, *rest) if self.stacked else (sum(len(part) for part in self.parts), *rest)

    @property
    def kind(self) -> str:
        """Matrices stay as they are stored; norms and biases are float32, which llama.cpp asks for."""
        return HALF if self.parts[0].dtype == BFLOAT16 and len(self.shape) > 1 else FLOAT

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * (2 if self.kind == HALF else 4)

    def read(self) -> np.ndarray:
        """float32, or the bits of bfloat16 in uint16."""
        parts = self.parts if self.kind == HALF else [as_float32(part) for part in self.parts]
        return (np.stack if self.stacked else np.concatenate)(parts)


def tensors(directory: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Joined]]:
    """What is to be written, by GGUF's names.

    Raises:
        KeyError: the checkpoint lacks a tensor, or has one that no name stands for.
    """
    stored = stored_tensors(directory)
    left = set(stored)
    for name, sources in gguf_names(config).items():
        left -= set(sources.names)
        yield name, Joined(tuple(stored[source] for source in sources.names), sources.stacked)
    if left:
        raise KeyError(f"GGUF has no name for {', '.join(sorted(left))}")


def write_whole(source: Path, folder: Path) -> Path:
    """A transformers checkpoint with every weight as it is, and a made-up vocabulary: servers answer in texts.

    Returns:
        The file, named by the type of its matrices.
    """
    import gguf

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    architecture = FORMS[config["model_type"]].architecture
    found = dict(tensors(source, config))
    kind = HALF if any(tensor.kind == HALF for tensor in found.values()) else FLOAT
    target = folder / f"{kind}.gguf"
    writer = gguf.GGUFWriter(target, architecture)
    tell(writer, config)
    add_vocabulary(writer, config["vocab_size"])
    writer.add_file_type(getattr(gguf.LlamaFileType, FILE_TYPES[kind]))
    write_tensors(writer, found)
    return target


def write_tensors(writer, found: Mapping[str, Joined]) -> None:
    """All that the file says, then one tensor after another: added as a whole, the model would be in memory."""
    import gguf

    for name, tensor in found.items():
        kind = gguf.GGMLQuantizationType[tensor.kind.upper()]
        writer.add_tensor_info(name, tensor.shape, np.dtype("float32"), tensor.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in found.values():
        writer.write_tensor_data(tensor.read())
    writer.close()


def add_vocabulary(writer, size: int) -> None:
    """Prompts are ids, so no text is cut into tokens, and one merge that never happens is enough."""
    import gguf

    end = size - SPECIAL
    kinds = [gguf.TokenType.NORMAL] * end + [gguf.TokenType.CONTROL] * SPECIAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(gguf_tokens(size))
    writer.add_token_types(kinds)
    writer.add_token_merges(["w 0"])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)


def quantize(source: Path, target: Path, kind: str) -> None:
    """Lets llama.cpp quantize a GGUF of float32 or bfloat16, with its own choice of what stays finer."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, QUANTIZED[kind])
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
        raise RuntimeError(f"llama.cpp cannot quantize {source} to {kind}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gguf_file", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("types", nargs="+", choices=TYPES)
    parser.add_argument("--remove", action="store_true", help="what is no TYPE, as soon as nothing needs it")
    options = parser.parse_args(arguments)
    folder = options.directory / "gguf"
    folder.mkdir(exist_ok=True)
    whole = write_whole(options.directory / "hf", folder)
    if options.remove:
        shutil.rmtree(options.directory / "hf")
    for kind in options.types:
        if kind in QUANTIZED:
            quantize(whole, folder / f"{kind}.gguf", kind)
    if options.remove and whole.stem not in options.types:
        whole.unlink()
    print(json.dumps({path.name: path.stat().st_size for path in sorted(folder.iterdir())}))


if __name__ == "__main__":
    main()

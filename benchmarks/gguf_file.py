"""A checkpoint of GLM-4 or GLM-4.5 as GGUF files for llama.cpp: float32, and quantized by llama.cpp's own quantizer.

    python -m benchmarks.gguf_file DIRECTORY TYPE …     (in the peers' environment)

Reads DIRECTORY/hf, writes DIRECTORY/gguf/TYPE.gguf. GLM-4 is llama.cpp's `chatglm`: fused query, key and value, fused
gate and up, and pairs of neighbouring numbers that turn together. GLM-4.5 is its `glm4moe`.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gguf_names import FORMS, gguf_names, tell
from benchmarks.vocabulary import SPECIAL, gguf_tokens

FLOAT = "f32"
# Type → name of llama.cpp's constant.
QUANTIZED = {"q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0"}
TYPES = (FLOAT, *QUANTIZED)


def tensors(directory: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """GGUF's names and float32 arrays.

    Raises:
        KeyError: the checkpoint lacks a tensor, or has one that no name stands for.
    """
    from safetensors import safe_open

    with safe_open(directory / "model.safetensors", "numpy") as file:
        left = set(file.keys())
        for name, sources in gguf_names(config).items():
            left -= set(sources.names)
            join = np.stack if sources.stacked else np.concatenate
            yield name, join([file.get_tensor(source) for source in sources.names]).astype("float32", copy=False)
        if left:
            raise KeyError(f"GGUF has no name for {', '.join(sorted(left))}")


def write_float(source: Path, target: Path) -> None:
    """Writes a float32 GGUF of a transformers checkpoint, with a made-up vocabulary: servers answer in texts."""
    import gguf

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    architecture = FORMS[config["model_type"]].architecture
    writer = gguf.GGUFWriter(target, architecture, use_temp_file=True)  # else it holds the whole model
    tell(writer, config)
    add_vocabulary(writer, config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, array in tensors(source, config):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
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
    """Lets llama.cpp quantize a float32 GGUF, with its own choice of what stays finer."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, QUANTIZED[kind])
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options):
        raise RuntimeError(f"llama.cpp cannot quantize {source} to {kind}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gguf_file", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("types", nargs="+", choices=TYPES)
    options = parser.parse_args(arguments)
    folder = options.directory / "gguf"
    folder.mkdir(exist_ok=True)
    whole = folder / f"{FLOAT}.gguf"
    write_float(options.directory / "hf", whole)
    for kind in options.types:
        if kind != FLOAT:
            quantize(whole, folder / f"{kind}.gguf", kind)
    print(json.dumps({path.name: path.stat().st_size for path in sorted(folder.iterdir())}))


if __name__ == "__main__":
    main()

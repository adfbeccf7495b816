"""Exports a GLM, with its LoRA adapter merged in, for runtimes that need neither its Python code nor PaddleNLP."""

import argparse
import time
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.script import ScriptParser, run_script
from glm.device.choice import check_dtype, choose_device
from glm.errors import UsageError
from glm.files.sizes import in_words

DESCRIPTION = """\
Export a GLM to a directory with all that infer_generation.py needs: graph, weights, configuration, tokenizer, and a
manifest with their checksums, DIR/NAME.FORMAT.manifest.json. Both formats of a model may lie in one directory.

  python export_generation_model.py --model_name_or_path output/qg --output_path checkpoints/infer/glm
  python export_generation_model.py … --lora_path output/belle-lora     merges the adapter first
  python export_generation_model.py … --dtype float16                   half the size, for GPU and NPU
  python export_generation_model.py … --format onnx --weights int4      the fastest on a CPU, an eighth of the size
  python export_generation_model.py … --format onnx --opset 17          for any ONNX runtime, such as FastDeploy's

formats:
  paddle   the full-loop graph for Paddle Inference, on CPU, GPU and NPU: greedy search, sampling and beam
           search, with their options as run-time inputs. The model is built in memory
  onnx     one step as a graph for ONNX Runtime, on CPUs. Weights are read one by one, so memory holds little more than
           the largest of them, whatever the size of the model; untouched Hugging Face directories are read as well.
           It has ONNX Runtime's own operators; with --opset 17 standard ones alone, which ONNX Runtime from 1.12 on,
           OpenVINO and FastDeploy 1.0.7 read: slower, and without int4

weights of an onnx export, about:
  fp32     4 bytes per number: the same tokens as the model in float32
  int8     1 byte: block size 128 unless given; with --opset 17 a scale a column
  int4     0.6 bytes: block size 128 unless given, 8 bits in embedding and head. Smaller blocks are closer to the
           model, larger ones faster (docs/quantization.md)"""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    parser.add_argument("--model_name_or_path", required=True, help="directory of a model, or a preset")
    parser.add_argument(
        "--output_path",
        type=Path,
        required=True,
        help="directory and name of the export, such as checkpoints/infer/glm",
    )
    parser.add_argument(
        "--lora_path",
        type=Path,
        action="append",
        help="directory of a LoRA adapter to merge; given again, another one is merged behind it",
    )
    parser.add_argument("--format", choices=("paddle", "onnx"), default="paddle", help="see above")
    parser.add_argument(
        "--weights",
        choices=("fp32", "int8", "int4"),
        help="how onnx stores matrices, see above; default: fp32",
    )
    parser.add_argument(
        "--opset",
        type=int,
        help="17: an onnx export in standard operators of that version; default: ONNX Runtime's own, the fastest there",
    )
    parser.add_argument(
        "--block_size",
        type=int,
        help="numbers of an int8 or int4 matrix that share a scale: 16, 32, 64, 128 or 256",
    )
    parser.add_argument(
        "--head_bits",
        type=int,
        choices=(4, 8),
        help="of embedding and head with int8 and int4; default: 8, which 4 beats by a fifth in speed, not in quality",
    )
    parser.add_argument(
        "--asymmetric", action="store_true", help="int8 and int4 blocks with a zero point each: closer, and larger"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights of a paddle export; default: the model's own",
    )
    parser.add_argument(
        "--device", help="npu, gpu or cpu, where a paddle export builds the model; default: the best one present"
    )
    return parser.parse_args()


def _refuse_foreign(arguments: argparse.Namespace) -> None:
    """Flags of the other format."""
    if arguments.format == "paddle":
        given = [
            n
            for n in ("weights", "opset", "block_size", "head_bits", "asymmetric")
            if getattr(arguments, n) not in (None, False)
        ]
        if given:
            value = "" if given[0] == "asymmetric" else f" {getattr(arguments, given[0])}"
            instead = "leave it out" if given[0] == "opset" else "choose the precision with --dtype"
            raise UsageError(
                f"--{given[0]}{value} is of --format onnx, and this is --format paddle: add --format onnx, or {instead}"
            )
    elif arguments.dtype not in (None, "float32"):
        raise UsageError(
            f"--dtype {arguments.dtype} is of --format paddle, an onnx export computes in float32 whatever dtype the "
            "checkpoint has: leave it out, or choose smaller weights with --weights int8 or int4"
        )
    elif arguments.device not in (None, "cpu"):
        raise UsageError(
            f"--device {arguments.device} is of --format paddle, an onnx export needs no device: leave it out"
        )


def main() -> None:
    arguments, start = parse(), time.perf_counter()
    _refuse_foreign(arguments)
    manifest = {"paddle": export_paddle, "onnx": export_onnx}[arguments.format](arguments)
    report(arguments.output_path, manifest, time.perf_counter() - start)


def export_paddle(arguments: argparse.Namespace):
    # Paddle lets a graph have only what its build can run, so half precision is exported where there is a GPU or NPU.
    # Else the graph does not depend on the device.
    device = choose_device(arguments.device)
    check_dtype(arguments.dtype, device)
    import paddle

    paddle.set_device(device)
    from rich.console import Console

    from glm.api.loading import load_merged_model, load_processor, model_source
    from glm.export.paddle_graphs import export_directory

    name, adapter = arguments.model_name_or_path, arguments.lora_path
    with Console(stderr=True).status("building the model and tracing its graph …"):  # on a terminal only
        model = load_merged_model(name, adapter, arguments.dtype)
        return export_directory(model, load_processor(name), arguments.output_path, model_source(name, adapter))


def export_onnx(arguments: argparse.Namespace):
    from glm.api.loading import load_processor, model_source, stream_weights
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import export_step_graph
    from glm.export.writing import write_side_files

    name, adapter = arguments.model_name_or_path, arguments.lora_path
    stored = weights_of(
        arguments.weights or "fp32",
        arguments.block_size,
        not arguments.asymmetric,
        arguments.head_bits,
        arguments.opset,
    )
    config, tensors = stream_weights(name, adapter)
    processor = load_processor(name)
    return export_step_graph(
        config,
        tensors,
        stored,
        arguments.output_path,
        source=model_source(name, adapter),
        text=lambda directory: write_side_files(config, processor, directory),
    )


def report(prefix: Path, manifest, seconds: float) -> None:
    """What was written, and what to type next."""
    from glm.export.files import REQUIRED

    graphs = sorted(name for name in manifest.files if name.startswith(f"{prefix.name}."))
    size = sum(manifest.files[name]["size"] for name in graphs)
    bits = 8 * manifest.files[f"{prefix.name}{REQUIRED[manifest.format][-1]}"]["size"] / manifest.parameters
    kind = manifest.weights if manifest.head_bits else manifest.dtype
    kind += f", blocks of {manifest.block_size}" if manifest.block_size else ""
    kind += f", opset {manifest.opset}" if manifest.opset else ""
    print(f"exported {manifest.parameters:,} parameters ({kind}) to {prefix}.* in {seconds:.1f} s")
    print(f"  {', '.join(graphs)}: {in_words(size)}, {bits:.2f} bits per weight")
    print(f'next: python infer_generation.py --model_path {prefix.parent} --model_prefix {prefix.name} "…"')


if __name__ == "__main__":
    run_script(main)

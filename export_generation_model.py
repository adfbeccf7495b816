"""Exports a GLM, with its LoRA adapter merged in, to a static graph that holds the whole generation loop."""

import argparse
import time
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli import ScriptParser, run_script
from glm.device import check_dtype, choose_device

DESCRIPTION = """\
Export a GLM to a static graph: greedy search, sampling and beam search, with their options as run-time inputs.

  python export_generation_model.py --model_name_or_path output/qg --output_path checkpoints/infer/glm
  python export_generation_model.py … --lora_path output/belle-lora     merges the adapter first
  python export_generation_model.py … --dtype float16                   half the size, for GPU and NPU"""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    parser.add_argument("--model_name_or_path", required=True, help="directory of a model, or a preset")
    parser.add_argument(
        "--output_path", type=Path, required=True, help="directory and name of the graph, such as checkpoints/infer/glm"
    )
    parser.add_argument("--lora_path", type=Path, help="directory of a LoRA adapter to merge")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; default: the model's own",
    )
    parser.add_argument(
        "--device", help="npu, gpu or cpu, where the weights lie meanwhile; default: the best one present"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse()

    # Paddle lets a graph have only what its build can run, so half precision is exported where there is a GPU or NPU.
    # Else the graph does not depend on the device.
    device = choose_device(arguments.device)
    check_dtype(arguments.dtype, device)
    import paddle

    paddle.set_device(device)
    from glm.export import export_directory
    from glm.loading import load_encoder, load_merged_model

    start = time.perf_counter()
    model = load_merged_model(arguments.model_name_or_path, arguments.lora_path, arguments.dtype)
    info = export_directory(model, load_encoder(arguments.model_name_or_path), arguments.output_path)
    seconds = time.perf_counter() - start
    print(f"exported {info.parameters:,} parameters ({info.dtype}) to {arguments.output_path}.* in {seconds:.1f} s")


if __name__ == "__main__":
    run_script(main)

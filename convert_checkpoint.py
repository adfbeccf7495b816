"""Converts a checkpoint directory between the layouts of Hugging Face, PaddleNLP and Megatron-core."""

import argparse
from pathlib import Path

from glm.cli.script import ScriptParser, run_script, size

DESCRIPTION = """\
Convert a checkpoint, shard by shard, with a few megabytes of memory. A killed run continues when it is started again.

  python convert_checkpoint.py --source glm-4-9b-chat --target glm-4-9b-chat-hf --format hf
  python convert_checkpoint.py --source GLM-4-9B-0414 --target paddle --format paddle --tensor_parallel_degree 2
  python convert_checkpoint.py --source paddle --target back --format hf
  python convert_checkpoint.py --source chatglm-6b --target fp32 --format paddle --dtype float32
  python convert_checkpoint.py --source glm-4-9b --target mcore --format mcore --pipeline_parallel_degree 2
  python convert_checkpoint.py --source mcore --target glm-4-9b-hf --format hf

formats:
  hf       what today's transformers opens: GlmForCausalLM for GLM-4-9B, Glm4ForCausalLM for GLM-4-0414; for ChatGLM-6B
           and GLM the layout of their own repositories
  remote   the same, but GLM-4-9B as its repositories with remote code hold it
  paddle   model_state.pdparams, or model_state.tpNN.pdparams by rank, for this project and PaddleNLP
  mcore    iter_0000001/mp_rank_TT_PPP/model_optim_rng.pt, for Megatron-LM and MindSpeed-LLM (GLM-4 models)"""


def layers(text: str) -> tuple[int, ...]:
    """`22,18` → (22, 18)."""
    try:
        return tuple(int(count) for count in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers of layers: write something like 22,18") from None


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    parser.add_argument("--source", type=Path, required=True, help="directory of the checkpoint; its kind is detected")
    parser.add_argument("--target", type=Path, required=True, help="directory to write")
    parser.add_argument("--format", choices=("hf", "remote", "paddle", "mcore"), required=True, help="see above")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the checkpoint's own")
    parser.add_argument("--tensor_parallel_degree", type=int, default=1, help="ranks that share a layer: paddle, mcore")
    parser.add_argument("--pipeline_parallel_degree", type=int, default=1, help="stages, each of some layers: mcore")
    parser.add_argument("--num_layer_list", type=layers, help="layers of every stage, as 22,18; else equal: mcore")
    multiple = "rows of the vocabulary of a rank are a multiple of it, the last row repeated: mcore"
    parser.add_argument("--make_vocab_size_divisible_by", type=int, default=1, help=multiple)
    parser.add_argument("--max_shard_size", type=size, default="5GB", help="largest file; a rank's file is not divided")
    parser.add_argument("--overwrite", action="store_true", help="replace the model that the target holds, at the end")
    return parser.parse_args()


def main() -> None:
    arguments = parse()

    from glm.checkpoint.conversion import Conversion
    from glm.checkpoint.convert import convert_checkpoint
    from glm.cli.console import print_metrics

    conversion = Conversion(
        source=arguments.source,
        target=arguments.target,
        format=arguments.format,
        dtype=arguments.dtype,
        degree=arguments.tensor_parallel_degree,
        stages=arguments.pipeline_parallel_degree,
        layers=arguments.num_layer_list,
        multiple=arguments.make_vocab_size_divisible_by,
        max_shard_size=arguments.max_shard_size,
        overwrite=arguments.overwrite,
    )
    report = convert_checkpoint(conversion, show_bar=True)
    print_metrics(f"converted to {arguments.target}", report.table())


if __name__ == "__main__":
    run_script(main)

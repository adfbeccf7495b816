"""Runs an exported GLM: texts in, generated texts out, without PaddleNLP and without the model's Python code."""

import argparse
import sys
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.generate import answer
from glm.cli.prompts import (
    add_decode_arguments,
    add_dialogue_arguments,
    add_prompt_arguments,
    check_dialogue,
    generation_config,
    read_prompts,
)
from glm.cli.script import ScriptParser, run_script, size
from glm.device.tuning import usable_cores
from glm.runtime import BACKENDS

DESCRIPTION = """\
Generate text with an exported GLM, ChatGLM-6B, GLM-4-9B or GLM-4-0414 in a C++ runtime.

  python infer_generation.py --model_path checkpoints/infer --model_prefix glm "答案：9层，上下文：祥信塔共有9层。"
  python infer_generation.py … --input_file sources.txt --batch_size 8 --num_beams 5 --no_repeat_ngram_size 3
  python infer_generation.py … --chat                        a conversation in the terminal
  python infer_generation.py … --stream --stop 。            each token as it comes, up to the first full stop
  python infer_generation.py … --backend paddle --device gpu
  python infer_generation.py … --backend fastdeploy          where a real FastDeploy is installed"""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    parser.add_argument(
        "--model_path", "--model_dir", dest="model_path", type=Path, required=True, help="directory of the export"
    )
    parser.add_argument("--model_prefix", default="glm", help="name of the export in that directory")
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS),
        help="what runs it; default: the fastest that the export and this machine allow",
    )
    parser.add_argument("--device", help="npu, gpu or cpu; default: the best one present")
    parser.add_argument("--device_id", type=int, default=0, help="number of the GPU or NPU")
    parser.add_argument("--use_fp16", action="store_true", help="half precision, on GPU and NPU")
    parser.add_argument("--cpu_threads", type=int, default=usable_cores(), help="threads on the CPU")
    parser.add_argument("--max_length", type=int, help="most tokens of a source and its generated text together")
    parser.add_argument(
        "--kv_cache_size",
        type=size,
        help="most key/value cache, such as 2GiB, texts wait for it; default: 80%% of free memory",
    )
    add_dialogue_arguments(parser)
    add_prompt_arguments(parser)
    add_decode_arguments(parser)
    return parser.parse_args()


def export_options(arguments: argparse.Namespace):
    """What is opened, and how: the library's `ExportOptions`."""
    from glm.inference.exported import ExportOptions

    return ExportOptions(
        path=arguments.model_path,
        prefix=arguments.model_prefix,
        backend=arguments.backend,
        device=arguments.device,
        device_id=arguments.device_id,
        use_fp16=arguments.use_fp16,
        cpu_threads=arguments.cpu_threads,
        lengths=(arguments.src_length, arguments.tgt_length),
        max_length=arguments.max_length,
        kv_cache_size=arguments.kv_cache_size,
        streams=arguments.stream or arguments.chat,
        stop_strings=arguments.stop,
        no_block_position=arguments.no_block_position,
        plain=arguments.plain,
    )


def main() -> None:
    arguments = parse()
    generation_config(arguments)  # what is wrong with the flags is said before anything is loaded
    check_dialogue(arguments)
    texts = [] if arguments.chat else read_prompts(arguments)

    from glm.inference.exported import open_export

    generator, choice = open_export(export_options(arguments))
    print(choice, file=sys.stderr)
    answer(generator, texts, arguments)


if __name__ == "__main__":
    run_script(main)

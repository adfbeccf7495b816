"""Runs an exported GLM: texts in, generated texts out, without PaddleNLP and without the model's Python code."""

import argparse
import sys

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.export_flags import add_export_arguments, add_runtime_arguments, export_options
from glm.cli.generate import answer
from glm.cli.prompts import (
    add_decode_arguments,
    add_dialogue_arguments,
    add_guide_arguments,
    add_prompt_arguments,
    check_dialogue,
    generation_config,
    read_prompts,
    response_format,
)
from glm.cli.script import ScriptParser, run_script, size
from glm.errors import UsageError
from glm.generation.options import GenerationConfig
from glm.runtime import BACKENDS

DESCRIPTION = """\
Generate text with an exported GLM, ChatGLM-6B, GLM-4-9B or GLM-4-0414 in a C++ runtime.

  python infer_generation.py --model_path checkpoints/infer --model_prefix glm "答案：9层，上下文：祥信塔共有9层。"
  python infer_generation.py … --input_file sources.txt --batch_size 8 --num_beams 5 --no_repeat_ngram_size 3
  python infer_generation.py … --chat                        a conversation in the terminal
  python infer_generation.py … --stream --stop 。            each token as it comes, up to the first full stop
  python infer_generation.py … --chat --prompt_lookup 8      sooner where answers repeat what was said
  python infer_generation.py … --json_schema city.json       every text is JSON of a schema
  python infer_generation.py … --backend paddle --device gpu
  python infer_generation.py … --backend fastdeploy          an export of --opset 17, in FastDeploy 1.0.7"""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    add_export_arguments(parser)
    add_runtime_arguments(parser, list(BACKENDS))
    parser.add_argument("--max_length", type=int, help="most tokens of a source and its generated text together")
    parser.add_argument(
        "--kv_cache_size",
        type=size,
        help="most key/value cache, such as 2GiB, texts wait for it; default: 80%% of free memory",
    )
    parser.add_argument(
        "--prompt_lookup",
        type=int,
        default=0,
        metavar="N",
        help="guess up to N tokens, 8 for a start, from what the text had before, and check them in one call: the "
        "same texts, sooner where answers repeat prompts; one text at a time (--stream, --chat, --batch_size 1)",
    )
    add_dialogue_arguments(parser)
    add_prompt_arguments(parser)
    add_decode_arguments(parser)
    add_guide_arguments(parser)
    return parser.parse_args()


def options_of(arguments: argparse.Namespace):
    """What is opened, and how: the library's `ExportOptions`."""
    return export_options(
        arguments,
        lengths=(arguments.src_length, arguments.tgt_length),
        max_length=arguments.max_length,
        prompt_lookup=arguments.prompt_lookup,
        streams=arguments.stream or arguments.chat,
        stop_strings=arguments.stop,
        no_block_position=arguments.no_block_position,
        plain=arguments.plain,
        response_format=response_format(arguments),
    )


def check_lookup(most: int, config: GenerationConfig) -> None:
    """Raises UsageError for a number of tokens that cannot be guessed, or beams."""
    if most < 0:
        raise UsageError(f"--prompt_lookup is {most}, and must be at least 0, which is off")
    if most and config.num_beams > 1:
        raise UsageError(
            f"--prompt_lookup is for texts of one beam, and num_beams is {config.num_beams}: leave one of them out"
        )


def main() -> None:
    arguments = parse()
    config = generation_config(arguments)  # what is wrong with the flags is said before anything is loaded
    check_lookup(arguments.prompt_lookup, config)
    check_dialogue(arguments)
    response_format(arguments)
    texts = [] if arguments.chat else read_prompts(arguments)

    from glm.inference.exported import open_export

    generator, choice = open_export(options_of(arguments))
    print(choice, file=sys.stderr)
    answer(generator, texts, arguments)


if __name__ == "__main__":
    run_script(main)

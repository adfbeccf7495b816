"""Generates text with a trained model, with or without a LoRA adapter; converses with a chat model."""

import argparse
import sys
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.checkpoint.side_files import require_place_for_model
from glm.cli.argument_file import command_line
from glm.cli.generate import answer
from glm.cli.prompts import (
    add_decode_arguments,
    add_dialogue_arguments,
    add_prompt_arguments,
    check_dialogue,
    generation_config,
    read_prompts,
)
from glm.cli.script import ScriptParser, run_script
from glm.distributed.processes import code_version, from_rank_0, process_rank, require_agreement

DESCRIPTION = """\
Generate text with a GLM, ChatGLM-6B, GLM-4-9B or GLM-4-0414 model in Python.

  python predict_generation.py --model_name_or_path output/qg "答案：1920年，上下文：云溪桥建于1920年，长30米。"
  python predict_generation.py --model_name_or_path output/qg --input_file sources.txt --num_beams 5
  cat sources.txt | python predict_generation.py --model_name_or_path output/qg -
  python predict_generation.py … --lora_path output/belle-lora --stream
  python predict_generation.py --model_name_or_path GLM-4-9B-0414 --chat          a conversation in the terminal
  python predict_generation.py --model_name_or_path GLM-4-9B-0414 --predict_data prompts.txt --predict_batch_size 4
  python predict_generation.py configs/predict_glm4_0414.yaml --model_name_or_path GLM-4-9B-0414 "请介绍一下北京"
  python -m paddle.distributed.launch --devices 0,1 predict_generation.py … --merge_tensor_parallel_path output/whole"""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    parser.add_argument("--model_name_or_path", required=True, help="directory of a model, or a preset")
    parser.add_argument(
        "--lora_path",
        type=Path,
        action="append",
        help="directory of a LoRA adapter; given again, another one is merged behind it",
    )
    parser.add_argument(
        "--merge_tensor_parallel_path", type=Path, help="save the model, all shards and the adapter merged, there"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the model's own")
    parser.add_argument("--device", help="npu, gpu or cpu; default: the best one present")
    add_dialogue_arguments(parser)
    add_prompt_arguments(parser)
    add_decode_arguments(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    require_agreement({"the code": code_version(), "the arguments": command_line(sys.argv[1:])})
    # What is wrong with the arguments is said before anything is loaded.
    generation_config(arguments)
    check_dialogue(arguments)
    if arguments.merge_tensor_parallel_path:
        require_place_for_model(arguments.merge_tensor_parallel_path)
    texts = [] if arguments.chat else from_rank_0(lambda: read_prompts(arguments))

    from glm.api.predictor import Predictor

    predictor = Predictor.load(
        arguments.model_name_or_path,
        arguments.lora_path,
        dtype=arguments.dtype,
        device=arguments.device,
        lengths=(arguments.src_length, arguments.tgt_length),
        stop_strings=arguments.stop,
        no_block_position=arguments.no_block_position,
        plain=arguments.plain,
    )
    answer(predictor, texts, arguments)
    if arguments.merge_tensor_parallel_path:
        predictor.save(arguments.merge_tensor_parallel_path)
        if process_rank() == 0:
            print(f"saved the merged model to {arguments.merge_tensor_parallel_path}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)

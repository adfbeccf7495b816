"""Generates text with a trained model, with or without a LoRA adapter; converses with a chat model."""

import argparse
import io
import sys
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli import ScriptParser, run_script
from glm.errors import UsageError
from glm.processes import code_version, command_line, from_rank_0, process_rank, require_agreement
from glm.texts import (
    add_decode_arguments,
    add_text_arguments,
    generate_texts,
    generation_config,
    read_texts,
    report_truncation,
    show_texts,
    write_texts,
)

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
    parser.add_argument("--lora_path", type=Path, help="directory of a LoRA adapter")
    parser.add_argument(
        "--merge_tensor_parallel_path", type=Path, help="save the model, all shards and the adapter merged, there"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the model's own")
    parser.add_argument("--device", help="npu, gpu or cpu; default: the best one present")
    parser.add_argument("--stream", action="store_true", help="show each token as soon as it is generated")
    parser.add_argument("--chat", action="store_true", help="hold a conversation: questions from standard input")
    parser.add_argument("--system", help="instructions before the first question of --chat")
    add_text_arguments(parser)
    add_decode_arguments(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    require_agreement({"the code": code_version(), "the arguments": command_line(sys.argv[1:])})
    # What is wrong with the arguments is said before anything is loaded.
    config = generation_config(arguments)
    check_chat(arguments)
    texts = [] if arguments.chat else from_rank_0(lambda: read_texts(arguments))

    from glm.conversation import require_streaming
    from glm.predict import Predictor

    if arguments.stream or arguments.chat:
        require_streaming(config)
    predictor = Predictor.load(
        arguments.model_name_or_path,
        arguments.lora_path,
        dtype=arguments.dtype,
        device=arguments.device,
        lengths=(arguments.src_length, arguments.tgt_length),
        no_block_position=arguments.no_block_position,
        plain=arguments.plain,
    )
    config = generation_config(arguments, predictor.encoder)
    if arguments.chat:
        _chat(predictor, config, arguments)
    else:
        _generate(predictor, config, texts, arguments)
    if arguments.merge_tensor_parallel_path:
        predictor.save(arguments.merge_tensor_parallel_path)
        if process_rank() == 0:
            print(f"saved the merged model to {arguments.merge_tensor_parallel_path}", file=sys.stderr)


def check_chat(arguments: argparse.Namespace) -> None:
    """Raises UsageError for flags that do nothing in a conversation, or outside of one."""
    if arguments.system is not None and not arguments.chat:
        raise UsageError("--system begins a conversation: add --chat")
    useless = {
        "TEXT": arguments.texts,
        "--input_file": arguments.input_file,
        "--predict_data": arguments.predict_data,
        "--output_file": arguments.output_file,
        "--plain": arguments.plain,
    }
    if given := [name for name, value in useless.items() if arguments.chat and value]:
        raise UsageError(f"--chat reads questions from standard input and prints the answers: leave out {given[0]}")


def _chat(predictor, config, arguments: argparse.Namespace) -> None:
    from glm.terminal import converse

    converse(lambda: predictor.conversation(config, arguments.system))


def _generate(predictor, config, texts: list[str], arguments: argparse.Namespace) -> None:
    """All processes of a launch generate; the first one prints and writes."""
    speaks = process_rank() == 0
    if arguments.stream:
        results = _stream(predictor, texts, config, sys.stdout if speaks else io.StringIO())
        if speaks:
            write_texts(texts, results, arguments)
    else:
        results, speed = generate_texts(
            texts, predictor.encoder, arguments.batch_size, lambda batch: predictor.generate(batch, config)
        )
        if speaks:
            show_texts(texts, results, speed, arguments)
    if speaks:
        report_truncation(predictor.encoder)


def _stream(predictor, texts: list[str], config, out) -> list[str]:
    results = []
    for text in texts:
        print(text, end="\n  → ", file=out)
        pieces = []
        for piece in predictor.stream(text, config):
            print(piece, end="", flush=True, file=out)
            pieces.append(piece)
        print(file=out)
        results.append("".join(pieces).strip())
    return results


if __name__ == "__main__":
    run_script(main)

"""Generates text with a trained GLM, with or without a LoRA adapter."""

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
Generate text with a GLM in Python.

  python predict_generation.py --model_name_or_path output/qg "答案：1920年，上下文：云溪桥建于1920年，长30米。"
  python predict_generation.py --model_name_or_path output/qg --input_file sources.txt --num_beams 5
  cat sources.txt | python predict_generation.py --model_name_or_path output/qg -
  python predict_generation.py … --lora_path output/belle-lora --stream
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
    add_text_arguments(parser)
    add_decode_arguments(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    require_agreement({"the code": code_version(), "the arguments": command_line(sys.argv[1:])})
    config, texts = generation_config(arguments), from_rank_0(lambda: read_texts(arguments))
    if arguments.stream and config.num_beams > 1:
        raise UsageError(
            f"--stream shows tokens as they come, and num_beams {config.num_beams} chooses them at the end"
        )

    from glm.predict import Predictor

    predictor, speaks = Predictor.open(arguments), process_rank() == 0
    config = generation_config(arguments, predictor.encoder)
    if arguments.stream:
        results = _stream(predictor, texts, config, speaks)
        if speaks:
            write_texts(results, arguments)
    else:
        results, speed = generate_texts(
            texts, predictor.encoder, arguments.batch_size, lambda batch: predictor.generate(batch, config)
        )
        if speaks:
            show_texts(texts, results, speed, arguments)
    if speaks:
        report_truncation(predictor.encoder)
    if arguments.merge_tensor_parallel_path:
        predictor.save(arguments.merge_tensor_parallel_path)
        if speaks:
            print(f"saved the merged model to {arguments.merge_tensor_parallel_path}", file=sys.stderr)


def _stream(predictor, texts: list[str], config, speaks: bool) -> list[str]:
    """All processes of a launch generate; the first one prints."""
    out, results = sys.stdout if speaks else io.StringIO(), []
    for text in texts:
        print(text, end="\n  → ", file=out)
        pieces = []
        for piece in predictor.stream(predictor.encoder.text_prompt(text), config):
            print(piece, end="", flush=True, file=out)
            pieces.append(piece)
        print(file=out)
        results.append("".join(pieces).strip())
    return results


if __name__ == "__main__":
    run_script(main)

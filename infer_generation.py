"""Runs an exported GLM: texts in, generated texts out, without PaddleNLP and without the model's Python code."""

import argparse
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli import ScriptParser, run_script
from glm.runtime import BACKENDS
from glm.texts import (
    add_decode_arguments,
    add_text_arguments,
    generate_texts,
    generation_config,
    read_texts,
    report_truncation,
    show_texts,
)
from glm.tuning import usable_cores

DESCRIPTION = """\
Generate text with an exported GLM in a C++ runtime.

  python infer_generation.py --model_path checkpoints/infer --model_prefix glm "答案：9层，上下文：祥信塔共有9层。"
  python infer_generation.py … --input_file sources.txt --num_beams 5 --no_repeat_ngram_size 3
  python infer_generation.py … --backend fastdeploy          where a real FastDeploy is installed"""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    parser.add_argument(
        "--model_path", "--model_dir", dest="model_path", type=Path, required=True, help="directory of the export"
    )
    parser.add_argument("--model_prefix", default="glm", help="name of the graph in that directory")
    parser.add_argument("--backend", choices=list(BACKENDS), default="paddle", help="what runs the graph")
    parser.add_argument("--device", help="npu, gpu or cpu; default: the best one present")
    parser.add_argument("--device_id", type=int, default=0, help="number of the GPU or NPU")
    parser.add_argument("--use_fp16", action="store_true", help="half precision, on GPU and NPU")
    parser.add_argument("--cpu_threads", type=int, default=usable_cores(), help="threads on the CPU")
    parser.add_argument("--max_length", type=int, help="most tokens of a source and its generated text together")
    add_text_arguments(parser)
    add_decode_arguments(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    generation_config(arguments)  # what is wrong with the flags is said before anything is loaded
    texts = read_texts(arguments)

    from glm.infer import GraphGenerator

    generator = GraphGenerator.open(arguments)
    config = generation_config(arguments, generator.encoder)
    results, speed = generate_texts(
        texts, generator.encoder, arguments.batch_size, lambda batch: generator.generate(batch, config)
    )
    show_texts(texts, results, speed, arguments)
    report_truncation(generator.encoder)


if __name__ == "__main__":
    run_script(main)

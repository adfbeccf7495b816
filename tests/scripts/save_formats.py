"""Saves a model that ranks share in both weight formats: save_formats.py MODEL TARGET."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import sys
from pathlib import Path

import paddle

from glm import GLMForCausalLM
from glm.cli.script import run_script
from glm.distributed.processes import process_count, process_rank
from glm.distributed.tensor_parallel import start


def main() -> None:
    paddle.set_device("npu")
    start(process_count())
    model = GLMForCausalLM.from_pretrained(sys.argv[1])
    for weight_format in ("safetensors", "pdparams"):
        directory = Path(sys.argv[2]) / weight_format
        model.save_pretrained(directory, weight_format=weight_format, is_main_process=process_rank() == 0)


if __name__ == "__main__":
    run_script(main)

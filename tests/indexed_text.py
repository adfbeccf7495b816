"""Small indexed data sets and runs of pretraining on them, for the tests."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glm.datasets.indexed_writer import IndexedDatasetWriter

ROOT = Path(__file__).resolve().parents[1]
TINY = "glm-4-9b-tiny"
END = 754  # <|endoftext|> of the tiny GLM-4 vocabularies


def write_indexed(prefix: Path, documents: Sequence[Sequence[int]], dtype=np.int32) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for ids in documents:
            writer.add_document(np.array(ids, dtype))
    return prefix


def random_documents(count: int, longest: int = 60, seed: int = 0, end: bool = True) -> list[list[int]]:
    """Ids of the tiny vocabulary below its special tokens, mostly few different ones so that they can be learned."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, longest, count)
    return [[*draw.geometric(0.1, size).clip(0, 700).tolist(), *[END] * end] for size in lengths]


def arguments(data, output: Path, **flags) -> list[str]:
    """Flags of a run of 12 steps of 4 samples of 32 tokens with a checkpoint every 5, changed by `flags`."""
    own = {
        "model_name_or_path": TINY,
        "input_dir": data,
        "output_dir": output,
        "split": "90,10,0",
        "max_length": 32,
        "do_train": True,
        "max_steps": 12,
        "save_steps": 5,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "peak_tflops": 1,
        "device": "cpu",
    }
    words = [(f"--{name}", value) for name, value in (own | flags).items() if value is not None]
    return [str(word) for name, value in words for word in (name, *(value if isinstance(value, list) else [value]))]


def command(data, output: Path, **flags) -> list[str]:
    return [sys.executable, str(ROOT / "pretrain_generation.py"), *arguments(data, output, **flags)]


def pretrain(data, output: Path, **flags):
    """Runs in this process; returns the trainer."""
    from glm.training.arguments import GLMTrainingArguments, parse_arguments
    from glm.training.pretrain import pretrain as run
    from glm.training.pretrain_flags import PretrainDataArguments, PretrainModelArguments, ScheduleArguments

    classes = (PretrainDataArguments, PretrainModelArguments, ScheduleArguments, GLMTrainingArguments)
    return run(*parse_arguments(classes, "", arguments(data, output, **flags)))


def history(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "loss_history.jsonl").read_text(encoding="utf-8").splitlines()]

"""Small fine-tuning runs, in this process or as a user starts them, on a model with dropout and few rows."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "model_type": "glm",
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 384,
    "max_sequence_length": 128,
    "embedding_dropout_prob": 0.1,
    "attention_dropout_prob": 0.1,
    "output_dropout_prob": 0.1,
}
NO_DROPOUT = {name: 0.0 for name in CONFIG if name.endswith("dropout_prob")}
SAMPLE = ROOT / "data" / "dureader_qg" / "train.json"


def write_model(directory: Path, **changes) -> Path:
    """The config.json of a model that starts from random weights."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes), encoding="utf-8")
    return directory


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def sample_rows(count: int) -> list[dict[str, str]]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()[:count]]


def arguments(model: Path, data: Path, output: Path, **flags) -> list[str]:
    """Flags of a run of 40 steps of 4 rows with a checkpoint every 10, changed by `flags`."""
    own = {
        "model_name_or_path": model,
        "from_scratch": True,
        "tokenizer_name_or_path": "glm-tiny-chinese",
        "data_path": data,
        "output_dir": output,
        "do_train": True,
        "max_steps": 40,
        "save_steps": 10,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "src_length": 64,
        "tgt_length": 24,
    }
    return [word for name, value in (own | flags).items() for word in (f"--{name}", str(value))]


def command(model: Path, data: Path, output: Path, **flags) -> list[str]:
    """The same as a command line."""
    return [sys.executable, str(ROOT / "finetune_generation.py"), *arguments(model, data, output, **flags)]


def train(model: Path, data: Path, output: Path, **flags):
    """Runs in this process; returns the trainer."""
    from glm.training.arguments import (
        DataArguments,
        DecodeArguments,
        GLMTrainingArguments,
        ModelArguments,
        parse_arguments,
    )
    from glm.training.finetune import finetune

    classes = (DataArguments, DecodeArguments, ModelArguments, GLMTrainingArguments)
    return finetune(*parse_arguments(classes, "", arguments(model, data, output, **flags)))


def encoded(rows):
    """An `EncodedDataset` of training examples that come from no text."""
    from glm.encoding.dataset import EncodedDataset, FlatRows

    dataset = EncodedDataset.__new__(EncodedDataset)
    dataset.rows = FlatRows()
    dataset.rows.extend(rows)
    return dataset


def history(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "loss_history.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in history(output)]

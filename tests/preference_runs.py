"""Small runs of preference tuning in this process, on a tiny chat model and a few rows of the bundled sample."""

import json
from pathlib import Path

from family_models import write_family_model

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data" / "preference"
DROPOUT = {"attention_dropout": 0.2, "hidden_dropout": 0.2}


def write_pairs(path: Path, count: int, split: str = "train") -> Path:
    """The first rows of the sample."""
    lines = (SAMPLE / f"{split}.json").read_text(encoding="utf-8").splitlines(keepends=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines[:count]), encoding="utf-8")
    return path


def write_data(folder: Path, train: int = 24, dev: int = 6) -> Path:
    """A folder with so many rows."""
    write_pairs(folder / "train.json", train)
    write_pairs(folder / "dev.json", dev, "dev")
    return folder


def preference_arguments(model: Path, data: Path, output: Path, **flags) -> list[str]:
    """Flags of a run of 8 steps of 4 pairs with a checkpoint every 3, changed by `flags`."""
    own = {
        "model_name_or_path": model,
        "data_path": data,
        "output_dir": output,
        "do_train": True,
        "max_steps": 8,
        "save_steps": 3,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "src_length": 96,
        "tgt_length": 48,
        "disable_tqdm": True,
    }
    return [word for name, value in (own | flags).items() for word in (f"--{name}", str(value))]


def tune(model: Path, data: Path, output: Path, **flags):
    """Runs in this process; returns the trainer."""
    from glm.training.arguments import GLMTrainingArguments, parse_arguments
    from glm.training.preference import tune_preference
    from glm.training.preference_flags import PreferenceArguments, PreferenceDataArguments, PreferenceModelArguments

    classes = (PreferenceDataArguments, PreferenceArguments, PreferenceModelArguments, GLMTrainingArguments)
    return tune_preference(*parse_arguments(classes, "", preference_arguments(model, data, output, **flags)))


def write_chat_model(folder: Path, family: str = "glm4-0414", **changes) -> Path:
    """A model whose config.json asks for dropout, which preference tuning leaves off."""
    return write_family_model(folder, family, **changes)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def history(output: Path) -> list[dict]:
    return lines_of(output / "loss_history.jsonl")

"""The directory of a training run: what may start in it, what goes on from it, and what it must not mix with."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

from paddlenlp.trainer.trainer_utils import get_last_checkpoint

from glm.adapter_file import PADDLE_WEIGHTS, PEFT_WEIGHTS
from glm.adapter_settings import PADDLE_CONFIG, PEFT_CONFIG
from glm.checkpoint.file_names import CONFIG_NAME, weight_names
from glm.checkpoint.unpickle import verify_pickle
from glm.errors import GLMError, UsageError
from glm.training.history import EVALUATIONS_NAME, HISTORY_NAME

STATE_NAME = "trainer_state.json"
# What a run leaves that was killed before its first checkpoint: a fresh start may go over it.
LEFT_BEFORE_A_CHECKPOINT = ("runs", HISTORY_NAME, EVALUATIONS_NAME, ".*.tmp-*")
PEFT_FOLDER, EXPORT_FOLDER = "peft", "export"  # of --save_peft and --do_export
ADAPTER_FILES = (PADDLE_CONFIG, PADDLE_WEIGHTS, PEFT_CONFIG, PEFT_WEIGHTS)
PICKLED_STATE = ("scheduler*.pdparams", "scaler*.pdparams", "rng_state*.pth")


def resume_point(output_dir: str, overwrite: bool, wanted: str | None) -> str | None:
    """The checkpoint to go on from, None for a fresh start.

    Raises:
        UsageError: `output_dir` holds something else and must not be overwritten, or `wanted` is no checkpoint.
    """
    if wanted:
        if not (Path(wanted) / STATE_NAME).is_file():
            hint = f"leave the flag out to go on from the newest one of output_dir {output_dir}"
            raise UsageError(f"resume_from_checkpoint {wanted} is no checkpoint: it holds no {STATE_NAME}; {hint}")
        return wanted
    check_output_dir(output_dir)
    directory = Path(output_dir)
    left = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    if overwrite or all(any(fnmatch(name, pattern) for pattern in LEFT_BEFORE_A_CHECKPOINT) for name in left):
        return None
    last = get_last_checkpoint(output_dir)
    if last is None:
        raise UsageError(
            f"output_dir {output_dir} is not empty and holds no checkpoint to resume: choose another directory, or "
            "pass --overwrite_output_dir"
        )
    return last


def check_output_dir(output_dir: str) -> None:
    """Raises UsageError where a file has the directory's name."""
    if Path(output_dir).is_file():
        raise UsageError(f"output_dir {output_dir} is a file: choose another directory")


def check_same_kind(checkpoint: str | None, lora: bool) -> None:
    """Raises UsageError where a LoRA run would go on from a checkpoint of full fine-tuning, or the other way round."""
    found = checkpoint and (Path(checkpoint) / PADDLE_CONFIG).is_file()
    if checkpoint and found != lora:
        kinds = ("full fine-tuning", "LoRA")
        raise UsageError(
            f"{checkpoint} is of a run with {kinds[found]}, and this one is with {kinds[lora]}: choose another "
            "output_dir, or pass --overwrite_output_dir"
        )


def check_training_state(checkpoint: Path) -> None:
    """Refuses a checkpoint whose pickled files would run code when Paddle reads them.

    Raises:
        GLMError: naming the file.
    """
    if not (checkpoint / STATE_NAME).is_file():
        raise GLMError(f"{checkpoint} is no checkpoint: it holds no {STATE_NAME}")
    for pattern in PICKLED_STATE:
        for path in checkpoint.glob(pattern):
            verify_pickle(path)


def check_base_is_elsewhere(model_name_or_path: str, output_dir: str) -> None:
    """Raises UsageError where a LoRA run would remove the model that its adapter needs, being another kind's."""
    if Path(model_name_or_path).is_dir() and Path(model_name_or_path).resolve().is_relative_to(
        Path(output_dir).resolve()
    ):
        raise UsageError(
            f"output_dir {output_dir} holds the model that the adapter is trained on, and --overwrite_output_dir would "
            "remove it: choose another output_dir"
        )


def clear_directory(output_dir: str, lora: bool) -> None:
    """Removes what an earlier run left, so that a fresh run does not mix with it and nobody loads it for this run's.

    Args:
        lora: the fresh run writes an adapter, so an earlier whole model goes; else an earlier adapter.
    """
    directory = Path(output_dir)
    for path in directory.glob("checkpoint-*"):
        shutil.rmtree(path)
    other_kind = (*weight_names(directory), CONFIG_NAME) if lora else ADAPTER_FILES
    for pattern in ("*_results.json", "eval_*.jsonl", "test_predictions.jsonl", *other_kind):
        for path in directory.glob(pattern):
            path.unlink()
    shutil.rmtree(directory / PEFT_FOLDER, ignore_errors=True)
    if any((directory / EXPORT_FOLDER).glob("*.manifest.json")):
        shutil.rmtree(directory / EXPORT_FOLDER)


def saved_step(checkpoint: Path) -> int:
    return json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))["global_step"]

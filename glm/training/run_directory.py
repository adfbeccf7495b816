"""The directory of a training run: what may start in it, what resumes from it, and what it must not mix with."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from paddlenlp.trainer.trainer_utils import get_last_checkpoint

from glm.checkpoint.adapter import PADDLE_WEIGHTS, PEFT_WEIGHTS
from glm.checkpoint.adapter_settings import PADDLE_CONFIG, PEFT_CONFIG
from glm.checkpoint.file_names import CONFIG_NAME, weight_names
from glm.config.glm_config import GLMConfig
from glm.config.shapes import LORA_TARGETS
from glm.errors import GLMError, UsageError
from glm.files.json_files import read_json
from glm.pickles.unpickle import verify_pickle
from glm.training.history import EVALUATIONS_NAME, HISTORY_NAME

STATE_NAME = "trainer_state.json"
REFERENCE_NAME = "reference_logps.npz"  # of preference tuning
# What a run leaves that was killed before its first checkpoint: a fresh start may go over it.
LEFT_BEFORE_A_CHECKPOINT = ("runs", HISTORY_NAME, EVALUATIONS_NAME, REFERENCE_NAME, ".*.tmp-*")
NOT_THE_MODELS = frozenset({"dtype", "torch_dtype", "tensor_parallel_degree"})  # fields that every writing sets anew
PEFT_FOLDER, EXPORT_FOLDER = "peft", "export"  # of --save_peft and --do_export
ADAPTER_FILES = (PADDLE_CONFIG, PADDLE_WEIGHTS, PEFT_CONFIG, PEFT_WEIGHTS)
PICKLED_STATE = ("scheduler*.pdparams", "scaler*.pdparams", "rng_state*.pth")


def resume_point(output_dir: str, overwrite: bool, wanted: str | None) -> str | None:
    """The checkpoint to resume from, None for a fresh start.

    Raises:
        UsageError: `output_dir` holds something else and must not be overwritten, or `wanted` is no checkpoint.
    """
    if wanted:
        if not (Path(wanted) / STATE_NAME).is_file():
            hint = f"leave the flag out to resume from the newest one of output_dir {output_dir}"
            raise UsageError(f"resume_from_checkpoint {wanted} is no checkpoint: it holds no {STATE_NAME}; {hint}")
        newest = None if any(Path(wanted).glob("optimizer*.pdopt")) else get_last_checkpoint(wanted)
        if newest:
            raise UsageError(f"resume_from_checkpoint {wanted} is the directory of a whole run: name {newest}")
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
    """Raises UsageError where a LoRA run would resume from a checkpoint of full fine-tuning, or the other way round."""
    found = checkpoint and (Path(checkpoint) / PADDLE_CONFIG).is_file()
    if checkpoint and found != lora:
        kinds = ("full fine-tuning", "LoRA")
        raise UsageError(
            f"{checkpoint} is of a run with {kinds[found]}, and this one is with {kinds[lora]}: pass --lora {found}, "
            "choose another output_dir, or pass --overwrite_output_dir"
        )


def check_same_adapter(checkpoint: str | None, r: int, alpha: float | None, targets: str) -> None:
    """Raises UsageError where the adapter of a checkpoint has another rank, scale or targets than the flags say."""
    path = Path(checkpoint or "") / PADDLE_CONFIG
    if not checkpoint or not path.is_file():
        return
    saved = read_json(path)
    modules = {module.removeprefix(".*") for module in saved["target_modules"]}
    found = {
        "r": (saved["r"], r),
        "lora_alpha": (saved["lora_alpha"], 2 * r if alpha is None else alpha),
        "lora_targets": (_targets(modules), targets),
    }
    for name, (old, new) in found.items():
        if old != new:
            raise UsageError(
                f"{checkpoint} is of a run with --{name} {old}, and this one has --{name} {new}: its adapter cannot go "
                f"on as another one; pass --{name} {old}, or choose another output_dir"
            )


def _targets(modules: set[str]) -> str:
    """Which --lora_targets made an adapter of these modules."""
    if any(r"\.experts\.\d" in module for module in modules):
        return "experts"
    return "attention" if modules <= set(LORA_TARGETS["attention"]) else "all"


def model_changes(checkpoint: str, config: GLMConfig) -> list[str]:
    """A line for each dropout that differs between the model of a checkpoint and the one that resumes from it.

    Raises:
        UsageError: any other difference between their config.json: it would be another model with the same weights.
    """
    if not (Path(checkpoint) / CONFIG_NAME).is_file():
        return []
    old, new = (
        {name: value for name, value in each.to_checkpoint_dict().items() if name not in NOT_THE_MODELS}
        for each in (GLMConfig.from_pretrained(checkpoint), config)
    )
    differs = {name: (old.get(name), new.get(name)) for name in old | new if old.get(name) != new.get(name)}
    other = next((name for name in differs if "dropout" not in name), None)
    if other:
        was, now = differs[other]
        raise UsageError(
            f"{checkpoint} is of a model with {other} {was}, and model_name_or_path has {other} {now}: name the same "
            "model, or choose another output_dir"
        )
    return [f"{name} {was} → {now} in the model's config.json" for name, (was, now) in differs.items()]


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
    """The step of a checkpoint. Raises GLMError, one line, where its state is missing or damaged."""
    path = checkpoint / STATE_NAME
    cure = f"remove {checkpoint}, and the run resumes from the checkpoint before, or begins anew"
    if not path.is_file():
        raise GLMError(f"{checkpoint} holds no {STATE_NAME}, so it is no whole checkpoint: {cure}")
    try:
        return int(read_json(path, cure)["global_step"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GLMError(f"{path} is damaged ({error}): {cure}") from None

"""What a run was started with, as JSON in each of its checkpoints: a run that resumes from one says what it changes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from glm.api.loading import model_identity
from glm.checkpoint.file_names import CONFIG_NAME
from glm.config.presets import is_directory, preset_name
from glm.distributed.processes import digest
from glm.encoding.examples import Example
from glm.errors import GLMError, UsageError
from glm.files.atomic import write_json
from glm.files.json_files import read_json
from glm.training.arguments import DecodeArguments, GLMTrainingArguments
from glm.training.sampler import EpochSampler, Place

RECORD_NAME = "run_arguments.json"
# Flags that make another run of it, and why.
_ANOTHER_RUN = {
    "task_name": "its data, and what its evaluations measure, are of another task",
    "optim": "the optimizer's state in it is of another kind",
}
# Flags that change nothing of what is trained or measured, and those whose effect is compared by itself.
_UNSAID = (
    *(
        "data_name",
        "data_path",
        "input_dir",
        "data_cache",
        "peak_tflops",
        "skip_bad_rows",
        "model_name_or_path",
        "from_scratch",
        "weight_format",
    ),
    *("lora", "r", "lora_alpha", "lora_targets", "lora_path", "save_peft"),
    *("output_*", "overwrite_output_dir", "do_*", "resume_from_checkpoint", "run_name", "log*", "report_to", "debug"),
    *("save_total_limit", "save_on_each_node", "disable_tqdm", "skip_memory_metrics", "skip_profile_timer"),
    *(
        "device",
        "no_cuda",
        "local_rank",
        "*parallel_degree",
        "*_parallel_config",
        "sequence_parallel",
        "*sharding*",
        "hybrid_*",
    ),
    *("dataloader_num_workers", "lazy_data_processing", "metrics_output_path", "eval_samples_shown"),
    *("per_device_eval_batch_size", "prediction_loss_only", "max_evaluate_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
)
# Flags that a run that resumes takes up in another way than from its first step on.
_OTHERWISE = {
    "seed": "the rows keep their order to the end of the epoch, dropout draws by the new one",
    "scale_loss": "without effect, the checkpoint's own scale stays",
}
_SECRET = frozenset({"wandb_api_key", "wandb_http_proxy"})


@dataclass(frozen=True)
class RunRecord:
    """What a run was started with.

    Attributes:
        flags: every flag's value as JSON has it.
        splits: split → the number of its rows, and their digest.
        base: what tells the model that it started from from others.
        order: what the order of pretraining's samples depends on, {} of fine-tuning.
    """

    flags: dict[str, Any]
    splits: dict[str, str]
    base: str
    order: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What it trains for, in words."""
        if self.order:
            return "pretraining"
        return "preference tuning" if "loss_type" in self.flags else "fine-tuning"

    @property
    def judged_by(self) -> list:
        """What figures of two evaluations must agree in to be compared."""
        metric = (self.flags.get("metric_for_best_model") or "").removeprefix("eval_")
        decoding = [] if metric == "loss" else [self.flags.get(each.name) for each in fields(DecodeArguments)]
        return [metric, self.flags.get("greater_is_better"), self.splits.get("dev"), decoding]


def record_of(
    arguments: Sequence[Any],
    options: Any,
    training: GLMTrainingArguments,
    rows: Mapping[str, str],
    order: Mapping[str, Any] | None = None,
) -> RunRecord:
    """The record of a run that is about to start, before anything changes its arguments.

    Args:
        arguments: all dataclasses of flags.
        options: the one that names the model.
        rows: `RunRecord.splits`.
        order: `RunRecord.order`.
    """
    known = {
        each.name: getattr(one, each.name) for one in arguments for each in fields(one) if each.name not in _SECRET
    }
    flags = json.loads(json.dumps(known, default=_plain))
    return RunRecord(flags, dict(rows), _base(options, training.seed), dict(order or {}))


def rows_of(splits: Mapping[str, Sequence[Example]]) -> dict[str, str]:
    """The number of rows of each split, and their digest."""
    return {name: f"{len(split)} rows ({digest(*map(repr, split))})" for name, split in splits.items() if split}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else str(value)


def write_record(directory: Path, record: RunRecord, sampler: EpochSampler, step: int) -> None:
    """Writes the record of a run, and where it stands behind a step, into a checkpoint."""
    place = asdict(sampler.place_after(step)) | {"rows_per_step": sampler.rows_per_step}
    write_json(directory / RECORD_NAME, asdict(record) | {"place": place})


def read_record(checkpoint: Path) -> tuple[RunRecord, Place, int] | None:
    """The record of a checkpoint, where its run stood, and the rows of its steps; None where none was written.

    Raises:
        GLMError: a file that is none of them.
    """
    path = checkpoint / RECORD_NAME
    if not path.is_file():
        return None
    advice = "remove it, and the run resumes uncompared"
    content = read_json(path, advice)
    try:
        place = content.pop("place")
        rows = place.pop("rows_per_step")
        return RunRecord(**content), Place(**place), rows
    except (TypeError, KeyError, AttributeError) as error:
        raise GLMError(f"{path} is damaged ({error}): {advice}") from None


def changes_since(checkpoint: Path, record: RunRecord, step: int) -> list[str]:
    """A line for each flag that a run changes which resumes from a checkpoint.

    Args:
        step: that of the checkpoint.

    Raises:
        UsageError: a change that makes another run of it.
    """
    found = read_record(checkpoint)
    if found is None:
        return []
    old = found[0]
    if old.kind != record.kind:
        raise UsageError(
            f"{checkpoint} is of {old.kind}, and this run is {record.kind}: choose another output_dir, and give it the "
            "checkpoint as --model_name_or_path, or --lora_path"
        )
    changed = {name: (old.flags[name], value) for name, value in record.flags.items() if _differs(old, name, value)}
    for name, why in _ANOTHER_RUN.items():
        if name in changed:
            raise UsageError(_another_run(checkpoint, f"--{name}", *changed[name], why))
    for name, value in record.order.items():
        if old.order.get(name, value) != value:
            raise UsageError(_another_order(checkpoint, name, old, record))
    if record.flags.get("lora_path") and "lora_path" in changed:
        why = "the adapter to continue with lies in the checkpoint"
        raise UsageError(_another_run(checkpoint, "--lora_path", *changed["lora_path"], why))
    if (record.flags.get("lora") or record.flags.get("lora_path")) and record.base != old.base:
        raise UsageError(_another_base(checkpoint, old, record))
    lines = [*_flag_lines(changed, step), *_split_lines(old, record)]
    if record.flags["metric_for_best_model"] and old.judged_by != record.judged_by:
        lines.append(f"evaluations are judged otherwise: the best checkpoint is sought from step {step + 1} on")
    return lines


def _differs(old: RunRecord, name: str, value: Any) -> bool:
    return name in old.flags and old.flags[name] != value


def _another_run(checkpoint: Path, flag: str, old: Any, new: Any, why: str) -> str:
    instead = f"pass {flag} {old}" if old else f"leave {flag} out"
    return (
        f"{checkpoint} is of a run with {flag} {old}, and this one has {flag} {new}: {why}; {instead}, or choose "
        "another output_dir"
    )


def _another_order(checkpoint: Path, name: str, old: RunRecord, new: RunRecord) -> str:
    return (
        f"{checkpoint} is of a run with {name} {old.order[name]}, and this one has {name} {new.order[name]}: its "
        "samples would come in another order; give it the same, or the checkpoint as --model_name_or_path with another "
        "output_dir"
    )


def _another_base(checkpoint: Path, old: RunRecord, new: RunRecord) -> str:
    """An adapter acts as it was trained to on the weights that it was trained on alone."""
    name, before = new.flags["model_name_or_path"], old.flags["model_name_or_path"]
    why = f"the adapter of {checkpoint} was trained on other weights"
    if name != before:
        return _another_run(checkpoint, "--model_name_or_path", before, name, why)
    if old.flags["from_scratch"] and new.flags["from_scratch"]:
        return _another_run(checkpoint, "--seed", old.flags["seed"], new.flags["seed"], why)
    return f"{why} than {name} holds now ({old.base} → {new.base}): give it the model as it was, or another output_dir"


def _flag_lines(changed: Mapping[str, tuple], step: int) -> Iterable[str]:
    for name, (old, new) in changed.items():
        if not any(fnmatchcase(name, pattern) for pattern in _UNSAID):
            yield f"--{name} {old} → {new}: {_OTHERWISE.get(name, f'from step {step + 1} on')}"


def _split_lines(old: RunRecord, new: RunRecord) -> Iterable[str]:
    what = {"train": "training", "dev": "evaluation"}
    for name, rows in new.splits.items():
        if rows != old.splits.get(name, rows) and name in what:
            yield f"the {what[name]} rows are others: {old.splits[name]} → {rows}"


def _base(options: Any, seed: int) -> str:
    """The model that a run starts from: its config.json and samples of its weights, or its name."""
    name = str(options.model_name_or_path)
    if not options.from_scratch:
        return model_identity(name)
    config = Path(name) / CONFIG_NAME
    content = config.read_bytes() if is_directory(name) and config.is_file() else preset_name(name)
    return f"random weights of seed {seed}, {digest(content)}"

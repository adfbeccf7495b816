"""What a user is told of the rows that a run's steps take."""

from glm.cli.console import note
from glm.encoding.dataset import EncodedDataset
from glm.encoding.packing import PackedDataset
from glm.training.run_record import RunRecord
from glm.training.sampler import EpochSampler, Place


def note_place(sampler: EpochSampler, max_steps: int, record: RunRecord, place: Place, before: int) -> None:
    """Where a run resumes whose steps, or epochs, have other rows than before.

    Args:
        record, place, before: what the checkpoint says (`read_record`); `before` rows made a step of it.
    """
    unit = was = sampler.dataset.unit
    if unit in (EncodedDataset.unit, PackedDataset.unit):  # which a run may change
        was = (PackedDataset if record.flags.get("packing") else EncodedDataset).unit
    changed = (before, was) != (sampler.rows_per_step, unit)
    if changed or sampler.added_steps:
        had = f", and had {before if was == unit else _counted(before, was)}"
        rows = f"a step has {_counted(sampler.rows_per_step, unit)}{had * changed}"
        resumes = f"epoch {sampler.start.epoch + 1} after its row {sampler.start.row}"
        note(f"{rows}: the run resumes in {resumes}, and ends at step {max_steps}")


def note_left_over(sampler: EpochSampler, count: int) -> None:
    """Where more than a twentieth of an epoch of `count` rows fills no step, as may be with few packs."""
    if 20 * sampler.left_over > count:
        left = f"{sampler.left_over} of {_counted(count, sampler.dataset.unit)}"
        note(f"each epoch leaves out {left}, which fill no step of {sampler.rows_per_step}: choose smaller steps")


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit if count != 1 else unit.removesuffix('s')}"

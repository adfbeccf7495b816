"""The loss of every step of a run, as lines of JSON and as a picture, and the metrics of every evaluation."""

import json
from pathlib import Path

import numpy as np
import paddle

from glm.files.atomic import atomic_file, atomic_write

HISTORY_NAME, PICTURE_NAME, EVALUATIONS_NAME = "loss_history.jsonl", "loss.png", "eval_history.jsonl"


class LossHistory:
    """Loss and learning rate of each optimizer step, kept in memory and flushed at checkpoints and at the end.

    Args:
        directory: where `loss_history.jsonl` and `loss.png` go.
        write: whether this process writes them.
    """

    def __init__(self, directory: Path, write: bool = True):
        self.directory, self.write = directory, write
        self.rows: list[dict] = []
        self.evaluations: list[dict] = []

    def add(self, step: int, loss: paddle.Tensor, learning_rate: float) -> None:
        """Adds the loss of a micro-batch to its step; losses stay on the device until they are written."""
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1]["loss"] = self.rows[-1]["loss"] + loss
        else:
            self.rows.append({"step": step, "loss": loss, "learning_rate": learning_rate})

    def add_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of an evaluation into `eval_history.jsonl` at once; a step's later ones replace them."""
        same = next((row for row in self.evaluations if row["step"] == step), {})
        others = [row for row in self.evaluations if row["step"] != step]
        self.evaluations = [*others, same | {"step": step} | metrics]  # those of the test split join a step's own
        if self.write:
            self._write(EVALUATIONS_NAME, self.evaluations)

    def resume(self, step: int) -> None:
        """Reads what was written up to `step`; later steps are about to be trained again."""
        self.rows = [row for row in self._read(HISTORY_NAME) if row["step"] <= step]
        self.evaluations = [row for row in self._read(EVALUATIONS_NAME) if row["step"] <= step]

    def mean_loss(self, after: int = 0) -> float:
        """Of all steps behind one, those before a resumption too."""
        losses = [float(row["loss"]) for row in self.rows if row["step"] > after]
        return sum(losses) / max(1, len(losses))

    def steps_after(self, step: int) -> int:
        return sum(row["step"] > step for row in self.rows)

    def flush(self) -> None:
        """Writes the rows, whole."""
        if not self.write:
            return
        for row in self.rows:
            row["loss"] = float(row["loss"])
        self._write(HISTORY_NAME, self.rows)

    def finish(self) -> None:
        """Writes the rows and draws them."""
        self.flush()
        if self.write and self.rows:
            draw_losses(self.rows, self.directory / PICTURE_NAME)

    def _write(self, name: str, rows: list[dict]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.directory / name, "w", "utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def _read(self, name: str) -> list[dict]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def draw_losses(rows: list[dict], path: Path) -> None:
    """A picture of the loss over the steps: every step, and a running mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, losses = (np.array([row[name] for row in rows]) for name in ("step", "loss"))
    width = max(1, len(losses) // 50)
    mean = np.convolve(losses, np.ones(width) / width, mode="valid")
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="every step")
    axes.plot(steps[width - 1 :], mean, color="#08519c", linewidth=1.8, label=f"mean of {width} steps")
    axes.set(xlabel="step", ylabel="loss", title=f"training loss: {losses[0]:.3f} → {mean[-1]:.3f}")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)

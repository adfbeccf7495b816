"""The loss of every step of a run, as lines of JSON and as a picture, and the metrics of every evaluation."""

import json
from collections.abc import Mapping, Sequence
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
        panels: what is drawn below the loss: title → names of figures that are kept beside it.
    """

    def __init__(self, directory: Path, write: bool = True, panels: Mapping[str, Sequence[str]] | None = None):
        self.directory, self.write, self.panels = directory, write, panels or {}
        self.rows: list[dict] = []
        self.evaluations: list[dict] = []

    def add(self, step: int, loss: paddle.Tensor, learning_rate: float, **figures: paddle.Tensor) -> None:
        """Adds the loss of a micro-batch, and figures beside it, to its step; they stay on the device until they are
        written."""
        added = {"loss": loss, **figures}
        if self.rows and self.rows[-1]["step"] == step:
            row = self.rows[-1]
            row |= {name: row[name] + value for name, value in added.items()}
        else:
            self.rows.append({"step": step, "loss": loss, "learning_rate": learning_rate, **figures})

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
        return self.mean("loss", after)

    def mean(self, name: str, after: int = 0) -> float:
        """The same of the loss, or of a figure beside it; steps that did not have it do not count."""
        values = [float(row[name]) for row in self.rows if row["step"] > after and name in row]
        return sum(values) / max(1, len(values))

    def steps_after(self, step: int) -> int:
        return sum(row["step"] > step for row in self.rows)

    def flush(self) -> None:
        """Writes the rows, whole."""
        if not self.write:
            return
        for row in self.rows:
            row |= {name: float(value) for name, value in row.items() if isinstance(value, paddle.Tensor)}
        self._write(HISTORY_NAME, self.rows)

    def finish(self) -> None:
        """Writes the rows and draws them."""
        self.flush()
        if self.write and self.rows:
            draw_losses(self.rows, self.directory / PICTURE_NAME, self.panels)

    def _write(self, name: str, rows: list[dict]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.directory / name, "w", "utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def _read(self, name: str) -> list[dict]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def draw_losses(rows: list[dict], path: Path, panels: Mapping[str, Sequence[str]] | None = None) -> None:
    """A picture of the loss over the steps, every step and a running mean; below it running means of other figures.

    Args:
        panels: title → names of figures of the rows.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = panels or {}
    count = 1 + len(panels)
    figure, grid = pyplot.subplots(
        count, figsize=(8, 1.5 + 3 * count), squeeze=False, sharex=True, layout="constrained"
    )
    steps, losses = (np.array([row[name] for row in rows]) for name in ("step", "loss"))
    behind, mean, width = _running_mean(steps, losses)
    loss_axes = grid[0][0]
    loss_axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="every step")
    loss_axes.plot(behind, mean, color="#08519c", linewidth=1.8, label=f"mean of {width} steps")
    loss_axes.set(ylabel="loss", title=f"training loss: {losses[0]:.3f} → {mean[-1]:.3f}")
    for axes, (title, names) in zip(grid[1:, 0], panels.items(), strict=True):
        for name in names:
            known = [(row["step"], row[name]) for row in rows if name in row]
            if known:
                axes.plot(*_running_mean(*np.array(known).T)[:2], linewidth=1.8, label=name)
        axes.set(title=title)
    for axes in grid[:, 0]:
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    grid[-1][0].set(xlabel="step")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def _running_mean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The last steps of windows, the means over them, and how wide they are: a fiftieth of all steps."""
    width = max(1, len(values) // 50)
    return steps[width - 1 :], np.convolve(values, np.ones(width) / width, mode="valid"), width

"""A picture of a run: a bar a subject, coloured by its category, the best on top."""

from __future__ import annotations

from pathlib import Path

from glm.datasets.multiple_choice.benchmarks import LETTERS, Benchmark
from glm.evaluation.multiple_choice.scores import Scores
from glm.files.atomic import atomic_file

NAME = "subjects.png"
_COLOURS = ("#08519c", "#e6550d", "#31a354", "#756bb1", "#636363")


def draw_subjects(benchmark: Benchmark, scores: Scores, title: str, path: Path) -> None:
    """Writes a png with the accuracy of each subject, and lines at the total and at guessing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(scores.subjects, key=lambda name: scores.subjects[name].acc)
    first = {name: benchmark.categories_of(name)[0] for name in names}
    colours = dict(zip(dict.fromkeys(first.values()), _COLOURS, strict=False))
    figure, axes = pyplot.subplots(figsize=(9, 2 + 0.22 * len(names)), layout="constrained")
    for category, colour in colours.items():
        own = [place for place, name in enumerate(names) if first[name] == category]
        axes.barh(own, [scores.subjects[names[place]].acc for place in own], color=colour, label=category)
    axes.axvline(scores.total.acc, color="black", linewidth=1, label=f"total {scores.total.acc:.4f}")
    axes.axvline(1 / len(LETTERS), color="black", linewidth=1, linestyle=":", label="guessing")
    axes.set(xlim=(0, 1), xlabel="accuracy", title=title, ylim=(-0.7, len(names) - 0.3))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)

"""docs/benchmarks*.svg, drawn from bench.json: how many times better than each peer, row by row."""

from pathlib import Path

from benchmarks.report import side_title
from benchmarks.settings import LIMITS, SIDES
from glm.files.atomic import atomic_file

# Of the sides that are compared with: how a dot looks. A dot right of 1 means that this project is ahead.
MARKS = {
    "transformers": ("o", "#4269d0"),
    "PEFT": ("s", "#4269d0"),
    "llama.cpp": ("D", "#c2820e"),
    "paddlenlp": ("^", "#2f8f3e"),
    "lm-evaluation-harness": ("v", "#4269d0"),
}
ROW_HEIGHT, WIDTH = 0.3, 9.0  # inches
TICKS = (0.5, 1, 2, 4, 8, 16)


def ratios(report: dict) -> list[tuple[str, list[tuple[str, float, float | None]]]]:
    """By row: peer, how many times better this project is, and the aim in the same unit.

    Seconds and bytes are turned over, so that more is better in every row. Limits and this project
    itself are no peers.
    """
    found, shapes = [], list(report["shapes"])
    for row in report["rows"]:
        power = -1 if row["small_is_better"] else 1
        peers = [
            (side_title(aim["side"]), aim["ratio"] ** power, aim["aim"] and aim["aim"] ** power)
            for aim in row["aims"]
            if aim["ratio"] and aim["side"] not in LIMITS and not SIDES[aim["side"]].ours
        ]
        # The first shape is the one that most rows have.
        shape = "" if row["shape"] == shapes[0] else f"{report['shapes'][row['shape']]['title']}: "
        found += [(shape + row["title"], peers)] if peers else []
    return found


def draw(report: dict, path: Path) -> None:
    """Writes the picture, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = ratios(report)
    # Without these the same numbers would give another file each time.
    with pyplot.rc_context({"svg.hashsalt": "glm", "svg.fonttype": "none", "font.size": 9}), atomic_file(path) as file:
        figure, axes = pyplot.subplots(figsize=(WIDTH, ROW_HEIGHT * len(rows) + 1), layout="constrained")
        _rows(axes, rows)
        _scale(axes, rows)
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _rows(axes, rows: list) -> None:
    for height, (_, peers) in enumerate(rows):
        for title, ratio, aim in peers:
            name = next(name for name in MARKS if title.startswith(name))
            shape, colour = MARKS[name]
            if aim:
                axes.plot([aim, aim], [height - 0.3, height + 0.3], color=colour, linewidth=1.5, alpha=0.5)
            axes.plot(ratio, height, shape, color=colour, markersize=6, label=name)
            axes.annotate(f"{ratio:.2g}", (ratio, height), (5, 3), textcoords="offset points", fontsize=7, color=colour)
    handles, names = axes.get_legend_handles_labels()
    named = dict(zip(names, handles, strict=True))
    axes.legend(named.values(), named.keys(), loc="lower right", title="times as good as", frameon=False)


def _scale(axes, rows: list) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(TICKS, [f"{tick:g}×" for tick in TICKS])
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("This project beside its peers; right of 1 is ahead, a stroke is the aim", loc="left", fontsize=10)

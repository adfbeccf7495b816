"""What a person sees of a run when it is done: tables, and lines. Imports no framework."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from glm.distributed.processes import process_rank


def print_metrics(title: str, metrics: dict[str, object]) -> None:
    """A table with a row a metric."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.4f}" if isinstance(value, float) else str(value))
    _console().print(table)


def print_table(title: str, columns: Sequence[str], sections: Sequence[Sequence[Sequence[object]]]) -> None:
    """A table of rows in sections, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for rows in sections:
        for row in rows:
            table.add_row(*(f"{cell:,}" if isinstance(cell, int) else _plain(str(cell)) for cell in row))
        table.add_section()
    _console().print(table)


def print_comparison(title: str, columns: Mapping[str, Mapping[str, float]]) -> None:
    """A table with a row a metric and a column for each time it was measured; "" where one was not.

    Args:
        columns: heading → metrics.
    """
    table = Table("", title=title, title_justify="left")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(name for metrics in columns.values() for name in metrics):
        values = (metrics.get(name) for metrics in columns.values())
        table.add_row(name, *("" if value is None else f"{value:,.4f}" for value in values))
    _console().print(table)


def print_samples(samples: list[tuple[str, str]]) -> None:
    """Generated texts beside their references; equal ones in green."""
    if not samples:
        return
    table = Table(title="samples", title_justify="left")
    table.add_column("prediction", overflow="fold", ratio=1)
    table.add_column("reference", overflow="fold", ratio=1)
    for prediction, reference in samples:
        colour = "green" if prediction == reference else "yellow"
        table.add_row(f"[{colour}]{_plain(prediction)}[/{colour}]", _plain(reference))
    _console().print(table)


def note(message: str) -> None:
    """One line about what a script does, on standard error; the first process of a launch speaks for all."""
    if process_rank() == 0:
        print(message, file=sys.stderr, flush=True)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 110)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")

"""A run of `python -m benchmarks`: from a choice of rows to prepared files, and to a report."""

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from tqdm import tqdm

from benchmarks.plan import Plan, Tell, buildable, execute, prepare_all, profile_rows
from benchmarks.processes import Environment
from benchmarks.report import build_report, machine_facts
from benchmarks.rows import processor_kind
from benchmarks.values import build_row, missed
from glm.files.atomic import atomic_write


def _without_paths(words: list[str]) -> list[str]:
    """Arguments as anybody could type them: without the places of the peers' Python and of prepared files."""
    places = ("--peers_python", "--prepared")
    return [word for word, before in zip(words, ["", *words], strict=False) if not {word, before} & set(places)]


@contextlib.contextmanager
def surroundings(options: argparse.Namespace, output: Path, plan: Plan) -> Iterator[tuple[Environment, Tell]]:
    """The processes' log beside the output, a place for weights, and a progress bar."""
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    log.write_text("", encoding="utf-8")
    # Gigabytes of weights: beside the output, where room is expected, and not in a /tmp that may lie in memory.
    new = partial(tempfile.TemporaryDirectory, prefix=".bench-", dir=output.parent)
    with (
        contextlib.nullcontext(options.prepared) if options.prepared else new() as directory,
        tqdm(total=plan.steps, desc="bench", unit=" tasks") as bar,
    ):

        def tell(what: str, steps: int) -> None:
            bar.set_postfix_str(what)
            bar.update(steps)

        yield Environment(Path(directory).resolve(), Path(options.peers_python), log.resolve(), plan.quick), tell


def run(options: argparse.Namespace, output: Path) -> dict:
    """Measures, and writes the JSON file and the processes' log beside it.

    Raises:
        OSError, GLMError: the output cannot be written.
    """
    rows, skipped = buildable(options.rows)
    plan = Plan(rows, options.runs, options.quick, processor_kind(machine_facts()["processor"]))
    started = datetime.now(timezone.utc)
    with surroundings(options, output, plan) as (environment, tell):
        measured = execute(plan, environment, tell)
        profile_rows(missed([build_row(name, plan, measured) for name in plan.rows]), environment, measured, tell)
    seconds = (datetime.now(timezone.utc) - started).total_seconds()
    command = shlex.join(["python", "-m", "benchmarks", *_without_paths(sys.argv[1:])])
    report = {"started": started.isoformat(), "seconds": seconds, "command": command, "skipped": skipped}
    report |= build_report(plan, measured)
    with atomic_write(output, "w", "utf-8") as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False, default=dict) + "\n")
    return report


def prepare(options: argparse.Namespace, output: Path) -> int:
    """Writes what the rows open, and measures nothing; code 1 where something failed."""
    plan = Plan(buildable(options.rows)[0], options.runs, options.quick)
    with surroundings(options, output, plan) as (environment, tell):
        found = prepare_all(plan, environment, tell)
    failed = [
        part["error"] for result in found.values() for part in (result, result.get("gguf", {})) if "error" in part
    ]
    for line in failed:
        print(f"benchmarks: {line}", file=sys.stderr)
    print(f"prepared: {', '.join(found)} in {options.prepared}")
    return int(bool(failed))

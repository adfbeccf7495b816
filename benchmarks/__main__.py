"""`python -m benchmarks`: measures, prints a table, writes output/bench.json; exit code 1 where something failed."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from benchmarks.plan import Measurement, Plan, execute
from benchmarks.report import build_report, print_report
from benchmarks.settings import COLUMNS, SHAPES, TASKS
from glm.checkpoint.atomic import atomic_write
from glm.errors import GLMError


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    plan = Plan(options.preset, tuple(options.columns), tuple(options.tasks), options.runs)
    output = Path(options.output)
    try:
        report = run(plan, output)
    except (GLMError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print_report(report, Console(width=None if sys.stdout.isatty() else 140))
    print(f"written: {output}")
    return int(bool(report["failures"]))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--preset", choices=SHAPES, default="large", help="the shape (default: %(default)s)")
    parser.add_argument("--quick", dest="preset", action="store_const", const="tiny", help="the same as --preset tiny")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="what to measure (default: all)")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="sides (default: all)")
    parser.add_argument("--runs", type=_positive, default=3, help="most counted runs a measurement (default: 3)")
    parser.add_argument("--output", default="output/bench.json", help="the JSON file (default: %(default)s)")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def run(plan: Plan, output: Path) -> dict:
    """Measures, and writes the JSON file and the workers' log beside it.

    Raises:
        OSError, GLMError: the output cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    started = datetime.now(timezone.utc)
    # 1.4 GB of weights: beside the output, where room is expected, and not in a /tmp that may lie in memory.
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=output.parent) as directory,
        tqdm(total=1 + len(plan.machine) + len(plan.measurements), desc="bench", unit=" measurements") as bar,
    ):

        @contextmanager
        def watch(measurement: Measurement) -> Iterator[None]:
            bar.set_postfix_str(measurement.title)
            yield
            bar.update()

        results = execute(plan, Path(directory), output.with_suffix(".log"), watch)
    seconds = (datetime.now(timezone.utc) - started).total_seconds()
    command = shlex.join([sys.executable, "-m", "benchmarks", *sys.argv[1:]])
    report = {"started": started.isoformat(), "seconds": seconds, "command": command} | build_report(plan, results)
    with atomic_write(output, "w", "utf-8") as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

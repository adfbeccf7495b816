"""`python -m benchmarks`: measures, prints tables, writes output/bench.json and docs; code 1 where something failed."""

import argparse
import json
import shlex
import signal
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from tqdm import tqdm

from benchmarks.docs import write_docs
from benchmarks.joined import joined
from benchmarks.plan import Plan, buildable, execute, profile_rows
from benchmarks.processes import ROOT, Environment
from benchmarks.report import FORMAT_VERSION, build_report, machine_facts, print_report
from benchmarks.rows import ROWS, processor_kind
from benchmarks.values import build_row, missed
from glm.errors import GLMError
from glm.files.atomic import atomic_write

DESCRIPTION = """\
Measure this project beside transformers, PEFT, llama.cpp and PaddleNLP's GLM: the same weights, one run, in turns.

  make bench                                          both environments, all rows, the page in docs; 45 minutes
  python -m benchmarks --rows decode-int4 start-fp32  some rows
  python -m benchmarks --rows serve-16 long-prompt    servers, with all figures of their answers in docs and JSON
  python -m benchmarks --quick                        tiny shapes, a minute: does everything work?
  python -m benchmarks --from_json output/bench.json --write_docs   writes the page again, measures nothing
  python -m benchmarks --from_json all.json again.json --write_docs   the same of several runs: the last one counts

rows:
"""


def _without_paths(words: list[str]) -> list[str]:
    """Arguments as anybody could type them: without the place of the peers' Python."""
    at = words.index("--peers_python") if "--peers_python" in words else len(words)
    return words[:at] + words[at + 2 :]


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    output = Path(options.output)
    try:
        report = joined([read(file) for file in options.from_json]) if options.from_json else run(options, output)
        if options.write_docs:
            write_docs(report, ROOT / "docs")
    except (GLMError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: stopped; nothing was written", file=sys.stderr)
        return 130
    print_report(report, Console(width=None if sys.stdout.isatty() else 140))
    if not options.from_json:
        print(f"written: {output}")
    return int(bool(report["failures"]))


def parse(arguments: list[str]) -> argparse.Namespace:
    rows = "\n".join(f"  {name:14} {row.title}, beside {', '.join(row.aims)}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION + rows,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="tiny shapes; the numbers then say nothing about speed")
    parser.add_argument(
        "--runs", type=_positive, help="fewest counted runs per row and side; default: 5, 1 with --quick"
    )
    parser.add_argument("--output", default="output/bench.json", help="default: %(default)s")
    parser.add_argument("--write_docs", action="store_true", help="write the page of this processor in docs as well")
    parser.add_argument(
        "--from_json",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="files of finished runs on this kind of processor, the oldest first: measure nothing, show them as one",
    )
    parser.add_argument(
        "--peers_python",
        default=str(ROOT / ".venv-bench" / "bin" / "python"),
        help="of the environment with requirements-bench.lock, and with llama-server beside it; default: %(default)s",
    )
    options = parser.parse_args(arguments)
    options.runs = options.runs or (1 if options.quick else 5)
    return options


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def read(file: Path) -> dict:
    """A finished run's report.

    Raises:
        GLMError: it is none of this format.
        OSError: it cannot be read.
    """
    try:
        report = json.loads(file.read_text("utf-8"))
        version = report["format_version"]
    except (ValueError, KeyError, TypeError):
        raise GLMError(f"{file} is no report of `python -m benchmarks`") from None
    if version != FORMAT_VERSION:
        raise GLMError(f"{file} has format {version}, this project reads {FORMAT_VERSION}: measure again")
    return report


def run(options: argparse.Namespace, output: Path) -> dict:
    """Measures, and writes the JSON file and the processes' log beside it.

    Raises:
        OSError, GLMError: the output cannot be written.
    """
    kind = processor_kind(machine_facts()["processor"])
    rows, skipped = buildable(options.rows)
    plan = Plan(rows, options.runs, options.quick, kind)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    log.write_text("", encoding="utf-8")
    started = datetime.now(timezone.utc)
    # Gigabytes of weights: beside the output, where room is expected, and not in a /tmp that may lie in memory.
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=output.parent) as directory,
        tqdm(total=plan.steps, desc="bench", unit=" tasks") as bar,
    ):

        def tell(what: str, steps: int) -> None:
            bar.set_postfix_str(what)
            bar.update(steps)

        environment = Environment(Path(directory).resolve(), Path(options.peers_python), log.resolve(), plan.quick)
        measured = execute(plan, environment, tell)
        profile_rows(missed([build_row(name, plan, measured) for name in plan.rows]), environment, measured, tell)
    seconds = (datetime.now(timezone.utc) - started).total_seconds()
    command = shlex.join(["python", "-m", "benchmarks", *_without_paths(sys.argv[1:])])
    report = {"started": started.isoformat(), "seconds": seconds, "command": command, "skipped": skipped}
    report |= build_report(plan, measured)
    with atomic_write(output, "w", "utf-8") as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False, default=dict) + "\n")
    return report


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are ended, too
    sys.exit(main(sys.argv[1:]))

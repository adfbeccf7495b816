"""`python -m benchmarks`: measures, prints tables, writes output/bench.json and docs; code 1 where something failed."""

import argparse
import json
import signal
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.docs import write_docs
from benchmarks.joined import joined
from benchmarks.processes import ROOT
from benchmarks.report import FORMAT_VERSION, print_report
from benchmarks.rows import ROWS
from benchmarks.run import prepare, run
from glm.errors import GLMError

DESCRIPTION = """\
Measure this project beside transformers, PEFT, llama.cpp and PaddleNLP's GLM: the same weights, one run, in turns.

  make bench                                          both environments, all rows that are not large, the page in docs;
                                                      45 minutes
  python -m benchmarks --rows decode-int4 start-fp32  some rows
  python -m benchmarks --rows serve-16 long-prompt    servers, with all figures of their answers in docs and JSON
  python -m benchmarks --rows big-prefill-128 big-prefill-1024 big-decode-int4
                                                      GLM-4-9B's shape: 45 GB of the disk, 20 GB of memory, 20 minutes
  python -m benchmarks --quick                        tiny shapes, a minute: does everything work?
  python -m benchmarks --from_json output/bench.json --write_docs   writes the page again, measures nothing
  python -m benchmarks --from_json all.json again.json --write_docs   the same of several runs: the last one counts

rows, of which large ones run only where they are named, or tiny with --quick:
"""


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    output = Path(options.output)
    try:
        if options.prepare_only:
            return prepare(options, output)
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
    rows = "\n".join(
        f"  {name:16} {row.title}, beside {', '.join(row.aims)}{' (large)' * row.large}" for name, row in ROWS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION + rows,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, metavar="ROW", help="default: all that are not large; all with --quick"
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes; the numbers then say nothing about speed")
    parser.add_argument(
        "--runs",
        type=_positive,
        help="fewest counted runs per row and side; default: 5, 3 where a row is large, 1 with --quick",
    )
    parser.add_argument("--output", default="output/bench.json", help="default: %(default)s")
    parser.add_argument("--write_docs", action="store_true", help="write the page of this processor in docs as well")
    parser.add_argument(
        "--prepared",
        type=Path,
        metavar="DIRECTORY",
        help="of weights and exports: what an earlier call left there is opened again, and what is made stays; "
        "default: a new one beside the output, removed at the end",
    )
    parser.add_argument("--prepare_only", action="store_true", help="measure nothing; needs --prepared")
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
    if options.prepare_only and not options.prepared:
        parser.error("--prepare_only leaves nothing without --prepared: name a directory")
    options.rows = options.rows or [name for name, row in ROWS.items() if options.quick or not row.large]
    options.runs = options.runs or (1 if options.quick else 3 if any(ROWS[name].large for name in options.rows) else 5)
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


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are ended, too
    sys.exit(main(sys.argv[1:]))

"""One report of several runs on one machine: a row that was measured again stands in the place of the earlier one."""

from collections.abc import Sequence

from benchmarks.report import failures_of
from benchmarks.rows import ROWS
from glm.errors import GLMError


def joined(reports: Sequence[dict]) -> dict:
    """The report that one run of all their rows would have written; `parts` says which run measured what.

    Args:
        reports: of `build_report`, the oldest first; a joined one is taken for the runs that it is of.

    Raises:
        GLMError: they are of two processors, or of a quick run and of one with true shapes.
    """
    if len(reports) == 1:
        return reports[0]
    _check(reports)
    rows = {row["row"]: row for report in reports for row in report["rows"]}
    rows = [rows[name] for name in ROWS if name in rows]
    checks = list({(check["about"], check["what"]): check for report in reports for check in report["checks"]}.values())
    found = dict(reports[-1])
    found |= {name: _together(reports, name) for name in ("shapes", "versions", "profiles", "settings")}
    found |= {"rows": rows, "checks": checks, "failures": failures_of(rows, checks)}
    found |= {"measurements": _measurements(reports), "skipped": _skipped(reports, rows)}
    found |= {"runs": min(report["runs"] for report in reports), "parts": _parts(reports)}
    return found | {"seconds": sum(report["seconds"] for report in reports), "started": reports[0]["started"]}


def _check(reports: Sequence[dict]) -> None:
    machines = {" ".join(report["machine"][name] for name in ("processor", "family")) for report in reports}
    if len(machines) > 1:
        raise GLMError(f"the files are of different processors: {', '.join(sorted(machines))}; join those of one")
    if len({report["quick"] for report in reports}) > 1:
        raise GLMError("some files are of --quick runs, whose shapes are tiny, some are not; join those of one kind")


def _together(reports: Sequence[dict], name: str) -> dict:
    return {key: value for report in reports for key, value in report[name].items()}


def _measurements(reports: Sequence[dict]) -> list[dict]:
    found = {(m["shape"], m["task"], m["side"]): m for report in reports for m in report["measurements"]}
    return list(found.values())


def _skipped(reports: Sequence[dict], rows: Sequence[dict]) -> list[str]:
    """What no run could measure: a line that was skipped once may stand in another run's rows."""
    titles = {row["title"] for row in rows}
    lines = dict.fromkeys(line for report in reports for line in report.get("skipped", []))
    return [line for line in lines if line.split(": ")[0] not in titles]


def _parts(reports: Sequence[dict]) -> list[dict]:
    """Of every run when, at which commit and how long it was measured, and the rows that no later one replaced."""
    parts = [part for report in reports for part in report.get("parts") or [_part(report)]]
    last = {name: part for part in parts for name in part["rows"]}
    parts = [part | {"rows": [name for name in part["rows"] if last[name] is part]} for part in parts]
    return [part for part in parts if part["rows"]]


def _part(report: dict) -> dict:
    rows = [row["row"] for row in report["rows"]]
    return {name: report[name] for name in ("started", "seconds")} | {"glm": report["versions"]["glm"], "rows": rows}

"""The page of a kind of processor and its picture, written from bench.json: nothing in them is typed by hand."""

from pathlib import Path
from statistics import median

from benchmarks.picture import draw
from benchmarks.report import SHOWN, aim_text, number, ratio, shown, side_title, spread
from benchmarks.rows import PROCESSORS, processor_kind
from benchmarks.settings import SERVED_ROWS, SIDES, TASKS
from glm.files.atomic import atomic_write

MET = {True: "met", False: "**missed**", None: ""}
# Page by kind of processor; any other one has a page of its own, so that it writes over neither.
PAGES = {"amd": "benchmarks.md", "intel": "benchmarks-intel.md", None: "benchmarks-other.md"}
HEAD = """\
# Benchmarks{of}

{origin}

All sides open the same random weights and read the same prompts. Each is a process of its own, and those that are
compared take turns, run by run, after a warm-up: a machine that slows down slows all of them. Numbers are medians of
at least {runs} runs. Before anything is compared the losses of one batch and the greedy tokens in float32 are, below.
{others}

![Speed as a multiple of each peer's]({picture})
"""


def write_docs(report: dict, directory: Path) -> None:
    """Writes the page of the report's processor, and the picture under the same name; each whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    path = directory / PAGES[kind_of(report)]
    directory.mkdir(parents=True, exist_ok=True)
    draw(report, path.with_suffix(".svg"))
    with atomic_write(path, "w", "utf-8") as file:
        file.write(page(report))


def kind_of(report: dict) -> str | None:
    """Of the processor that was measured, a key of `PAGES`."""
    return processor_kind(report["machine"]["processor"])


def page(report: dict) -> str:
    """The whole page as Markdown."""
    kind = kind_of(report)
    others = ", ".join(f"[{PROCESSORS[other]}]({PAGES[other]})" for other in PROCESSORS if other != kind)
    head = HEAD.format(
        of=f" on {PROCESSORS[kind]}" if kind else "",
        origin=origin(report),
        runs=report["runs"],
        others=f"Other processors have pages of their own, and aims of their own: {others}.",
        picture=Path(PAGES[kind]).with_suffix(".svg"),
    )
    if report["quick"]:
        head += "\n**A quick run on tiny shapes: these numbers say nothing about speed.**\n"
    sections = [head, machine(report), "## Aims\n\n" + aims(report), limits(report), agreement(report)]
    sections += ["## Every side\n\n" + all_sides(report), serving(report), shapes(report), misses(report)]
    sections += [listed("Skipped", report.get("skipped", [])), listed("Failures", report["failures"])]
    return "\n".join(section for section in sections if section)


def origin(report: dict) -> str:
    """Which command wrote the page, and the runs that its numbers are of."""
    if not (parts := report.get("parts")):
        return (
            f"Written by `{report['command']}` on {day(report)} UTC from `output/bench.json`; every number below is "
            "one of that file."
        )
    rows = [[day(part), part["glm"], f"{part['seconds'] / 60:.0f}", " ".join(part["rows"])] for part in parts]
    return (
        "Written by `python -m benchmarks --write_docs` from the files of these runs; every number below is one of "
        "them.\n\n" + table(["UTC", "commit", "minutes", "rows"], rows, 2)
    )


def day(run: dict) -> str:
    return run["started"][:16].replace("T", " ")


def table(titles: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """A Markdown table; all columns but the first `numbers` are set to the right."""
    marks = ["---" if column < numbers else "---:" for column in range(len(titles))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [titles, marks, *rows])


def machine(report: dict) -> str:
    facts = report["machine"]
    load = ", ".join(f"{value:.1f}" for value in facts["load_average"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items() if version)
    return (
        f"Machine: {facts['processor']} (family and model {facts['family']}), {facts['cores']} cores, "
        f"{facts['memory_bytes'] / 2**30:.0f} GiB, {', '.join(facts['instructions'])}; {facts['system']}. "
        f"Load average at the end: {load}. The run took {report['seconds'] / 60:.0f} minutes.\n\n"
        f"Versions: {versions}.\n"
    )


def aims(report: dict) -> str:
    rows = []
    for row in report["rows"]:
        for place, aim in enumerate(row["aims"]):
            ours = shown(row["cells"][row["ours"]], row["unit"])
            head = [f"{row['title']}", SIDES[row["ours"]].title, f"{ours} {row['unit']}"] if not place else ["", "", ""]
            theirs = f"{shown(row['cells'][aim['side']], row['unit'])} {row['unit']}"
            rows.append([*head, side_title(aim["side"]), theirs, ratio(aim), aim_text(row, aim), MET[aim["met"]]])
    return table(["what", "ours", "value", "beside", "value", "ratio", "aim", ""], rows, 2)


def limits(report: dict) -> str:
    """What the machine could do between the runs: the rates that the limits in the table come from."""
    rows = [
        [
            row["title"],
            f"{found['matmul']['median'] / 1e9:,.0f}",
            f"{found['read']['median'] / 1e9:.1f}",
            f"{found['read']['p10'] / 1e9:.1f} … {found['read']['p90'] / 1e9:.1f}",
            f"{found['weight_bytes'] / 1e6:,.0f}",
            f"{number(found['median'], row['unit'])} {row['unit']}",
        ]
        for row in report["rows"]
        if "read" in (found := row["cells"].get("machine", {}))
    ]
    if not rows:
        return ""
    titles = ["measured between the runs of", "matmul 2048³, GFLOP/s", "memory read, GB/s", "p10 … p90"]
    titles += ["weights, MB", "limit"]
    return (
        "## Physical limits\n\n"
        + table(titles, rows, 1)
        + "\nThe read rate is that of a vector times a matrix, or of a dot product a core where that is faster, over "
        "about as many bytes as the weights have, at most 1 GiB, best of three, once in every round: a part of them "
        "may stay in the processor's cache, as it may between steps. A step cannot be faster than its weights are "
        "read, or multiplied with all its rows; training and prompts not faster than their matmuls with weights. "
        "Caches, attention, norms and the optimizer come on top.\n"
    )


def agreement(report: dict) -> str:
    lines = [f"- {'' if check['agree'] else '**DIFFERENT** '}{check['line']}" for check in report["checks"]]
    return "## Do all compute the same?\n\n" + "\n".join(lines) + "\n" if lines else ""


def all_sides(report: dict) -> str:
    rows = [
        ["" if place else f"{row['title']}, {row['unit']}", side_title(side), *spread(cell, row["unit"])]
        for row in report["rows"]
        for place, (side, cell) in enumerate(row["cells"].items())
    ]
    return table(["what", "side", "median", "p10 … p90", "runs"], rows, 2)


def serving(report: dict) -> str:
    """Of every load and side the medians of all figures."""
    rows, before = [], None
    for found in report["measurements"]:
        if TASKS[found["task"]].kind == "serve" and (good := [run for run in found["runs"] if "error" not in run]):
            head = traffic(found["task"])
            rows.append(["" if head == before else head, side_title(found["side"]), *served_cells(good)])
            before = head
    if not rows:
        return ""
    titles = ["load", "server", "requests/s", "tokens/s", *(f"{kind} p50, p99" for kind in ("TTFT", "TPOT", "ITL"))]
    return (
        "## Servers under load\n\n" + table([*titles, "longest pause (usual gap)", "runs"], rows, 2) + "\n"
        "Times are ms, medians of the runs, by vLLM's definitions (benchmarks/serving_times.py). All texts are equally "
        f"long, and no two prompts are alike. Every server has {SERVED_ROWS} rows; transformers writes one text after "
        "another, and gets fewer requests. While the long prompt is read four clients go on with short ones.\n"
    )


def traffic(task: str) -> str:
    """A load in words."""
    asked = TASKS[task].traffic
    head = f"{asked.rate:g} requests/s" if asked.rate else f"{asked.clients} client{'s' * (asked.clients > 1)}"
    return f"{head}, and a long prompt" if asked.long_requests else head


def served_cells(runs: list[dict]) -> list[str]:
    def middle(*path: str) -> float | None:
        values = []
        for run in runs:
            for name in path:
                run = run.get(name, {}) if run else {}
            values += [run] if isinstance(run, float) else []
        return median(values) if values else None

    def ms(value: float | None) -> str:
        return "" if value is None else number(1e3 * value, "ms")

    pairs = [[ms(middle(kind, share)) for share in ("p50", "p99")] for kind in ("ttft", "tpot", "itl")]
    pause = f"{ms(middle('pause', 'longest'))} ({ms(middle('pause', 'usual'))})" if middle("pause", "usual") else ""
    speeds = [number(middle(name), "") for name in ("request_throughput", "output_throughput")]
    return [*speeds, *(", ".join(filter(None, pair)) for pair in pairs), pause, str(len(runs))]


def shapes(report: dict) -> str:
    lines = ["## What was run\n"]
    for shape in report["shapes"].values():
        work = shape["work"]
        if "parameters" in work:
            lines.append(
                f"- {shape['title']}: {work['parameters']:,} parameters, of which a step reads "
                f"{work['block_parameters'] + work['head_parameters']:,}; prompts of {shape['prompt']} tokens, "
                f"{shape['new_tokens']} new ones; training batches of {shape['train_batch']} × "
                f"{shape['train_source'] + shape['train_target']} tokens."
            )
    lines.append(
        "- Decoding: the tokens behind the first. Beams, and greedy search of glm-large-chinese's shape: all tokens, "
        "the prompt's reading included. A peer that is too slow for that is cut short, and counted on at its pace.\n"
        "- Start-up: from the start of a fresh process to its first token after a prompt, files in the page cache. "
        "Peak memory: VmHWM of such a process after all its tokens.\n"
        "- C++: glm_infer of `make cpp` is started as a user starts it, its tokenizer included; a process that has "
        "libglm open decodes, and has read the prompt already.\n"
        "- llama.cpp is built on this machine for its processor; its cache is float32 beside float32 weights, float16 "
        "beside quantized ones. Beside float32 weights its flash attention is off: it rounds to half precision, and "
        "other tokens come.\n"
        "- llama.cpp's server is llama-server, built from the sources of the same package. Start to ready: from the "
        "start of its process until a server takes requests, files in the page cache.\n"
    )
    return "\n".join(lines)


def misses(report: dict) -> str:
    """Each missed row with its profile."""
    parts = []
    for row in report["rows"]:
        if any(aim["met"] is False for aim in row["aims"]):
            parts.append(f"### {row['title']}\n\n{profile(report['profiles'].get(row['row']))}")
    return "## Where an aim is missed: what the time goes to\n\n" + "\n".join(parts) if parts else ""


def profile(found: dict | None) -> str:
    if not found:
        return "No profile was taken.\n"
    if "error" in found:
        return f"The profile failed: {found['error']}\n"
    if "stages" in found:
        return stage_table(found)
    rows = [
        [
            part["what"],
            f"{part['seconds'] * 1e3:,.1f}",
            f"{part['seconds'] / found['sum']:.0%}",
            str(part["calls"] or ""),
        ]
        for part in found["parts"][:SHOWN]
    ]
    return table(["what", "ms of one run", "share", "calls"], rows, 1)


def stage_table(found: dict) -> str:
    sides = found["stages"]
    scale = 1e-6 if "bytes" in found["of"] else 1.0
    stages = list(dict.fromkeys(name for parts in sides.values() for name in parts))
    rows = [[name, *(f"{sides[side].get(name, 0) * scale:,.2f}" for side in sides)] for name in stages]
    unit = "MB" if scale < 1 else "s"
    return f"{found['of'].capitalize()}:\n\n" + table(["stage", *(f"{SIDES[s].title}, {unit}" for s in sides)], rows, 1)


def listed(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else ""

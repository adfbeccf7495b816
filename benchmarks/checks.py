"""Whether the sides compute the same thing: losses of the same batch, greedy tokens of the same prompts."""

from collections.abc import Iterator

import numpy as np

from benchmarks.plan import Measured, Plan
from benchmarks.settings import SIDES, TASKS

LOSS_TOLERANCE = 1e-4  # relative; one side alone differs by 3e-5 between the tuned and the installed MKL path
SCORE_TOLERANCE = 2e-3  # absolute, of a log-likelihood
FLOAT = ("fp32", "f32")


def build_checks(plan: Plan, measured: Measured) -> list[dict]:
    """A check a task and shape that several sides ran; `agree` says whether they do."""
    return [
        check for act in plan.acts for task, sides in act.tasks.items() for check in _checks(act, task, sides, measured)
    ]


def _checks(act, task: str, sides, measured: Measured) -> Iterator[dict]:
    runs = {side: measured.runs.get((act.shape, task, side), [{}])[0] for side in sides}
    about = f"{act.shape} {task}"
    if TASKS[task].kind == "train":
        losses = {side: run["loss"] for side, run in runs.items() if "loss" in run}
        if len(losses) > 1:
            yield loss_check(about, losses)
    if TASKS[task].kind == "score":
        scores = {side: run["log_likelihoods"] for side, run in runs.items() if "log_likelihoods" in run}
        if len(scores) > 1:
            yield score_check(about, scores)
    # Beams are not compared: the others forbid n-grams of the prompt too, this project those of the new text only.
    if TASKS[task].kind == "generate" and TASKS[task].beams == 1:
        tokens = {side: run["tokens"] for side, run in runs.items() if "tokens" in run and SIDES[side].weights in FLOAT}
        if len(tokens) > 1:
            yield token_check(about, tokens)


def loss_check(about: str, losses: dict[str, float]) -> dict:
    # numpy's, because Python's max and min overlook a NaN; and a NaN is not below the tolerance.
    found = list(losses.values())
    spread = float(np.ptp(found) / np.max(np.abs(found)))
    agree = spread <= LOSS_TOLERANCE
    line = f"{about}: losses of the same batch differ by {spread:.1e}, allowed {LOSS_TOLERANCE:.0e} (relative)"
    return {"about": about, "what": "loss", "values": losses, "agree": agree, "line": line}


def score_check(about: str, scores: dict[str, list[list[float]]]) -> dict:
    """Log-likelihoods of the same letters; of their questions, which letter is the likeliest."""
    found = [np.array(values) for values in scores.values()]
    spread = float(np.max([np.abs(values - found[0]).max() for values in found]))
    agree = spread <= SCORE_TOLERANCE
    line = f"{about}: log-likelihoods of the letters differ by {spread:.1e}, allowed {SCORE_TOLERANCE:.0e}"
    return {"about": about, "what": "scores", "values": scores, "agree": agree, "line": line}


def token_check(about: str, tokens: dict[str, list[list[int]]]) -> dict:
    """Every float32 side against the first, this project's, as far as each went."""
    first, *others = tokens
    different = {side: _first_difference(tokens[first], tokens[side]) for side in others}
    lengths = {side: min(len(row) for row in rows) for side, rows in tokens.items()}
    wrong = {side: place for side, place in different.items() if place is not None or not lengths[side]}
    what = f"the greedy tokens of {', '.join(SIDES[side].title for side in tokens)}"
    line = f"{about}: {what} are equal ({min(lengths.values())} a row at least)"
    if wrong:
        places = ", ".join(f"{SIDES[side].title} from row and token {place}" for side, place in wrong.items())
        line = f"{about}: {what} are NOT equal: {places}"
    return {"about": about, "what": "tokens", "values": tokens, "agree": not wrong, "line": line}


def _first_difference(rows: list[list[int]], others: list[list[int]]) -> tuple[int, int] | None:
    for row, (mine, theirs) in enumerate(zip(rows, others, strict=True)):
        for place, (a, b) in enumerate(zip(mine, theirs, strict=False)):
            if a != b:
                return row, place
    return None

"""What a person sees of a run: a bar while it works, tables when it is done."""

import sys

from paddlenlp.trainer.trainer_callback import ProgressCallback
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from glm.distributed.processes import process_rank

# Of what the Trainer logs, what is worth a place beside the bar.
SHOWN = {
    "loss": "loss {:.4f}",
    "learning_rate": "lr {:.2e}",
    "interval_steps_per_second": "{:.2f} steps/s",
    "eval_loss": "evaluation: loss {:.4f}",
    "eval_exact_match": "exact match {:.4f}",
    "eval_bleu4": "BLEU-4 {:.4f}",
    "eval_rougeL": "ROUGE-L {:.4f}",
    "eval_bleu-4": "BLEU-4 {:.2f}",
    "eval_rouge-l": "ROUGE-L {:.2f}",
}


class BarCallback(ProgressCallback):
    """The Trainer's bar, with loss and learning rate beside it; lines instead, where nobody watches a terminal."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.training_bar = None
        self.current_step = state.global_step
        if state.is_local_process_zero:
            self.training_bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit=" steps")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None or not logs:
            return
        shown = ", ".join(form.format(logs[name]) for name, form in SHOWN.items() if name in logs)
        if shown and sys.stderr.isatty() and "eval_loss" not in logs:
            self.training_bar.set_postfix_str(shown)
        elif shown:
            tqdm.write(f"step {state.global_step}/{state.max_steps}: {shown}", file=sys.stderr)


def print_metrics(title: str, metrics: dict[str, object]) -> None:
    """A table with a row a metric."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in metrics.items():
        table.add_row(name, f"{value:,.4f}" if isinstance(value, float) else str(value))
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

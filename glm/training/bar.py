"""What a person sees of a training run while it works."""

import sys

from paddlenlp.trainer.trainer_callback import ProgressCallback
from tqdm import tqdm

# Of what the Trainer logs, what is worth a place beside the bar.
SHOWN = {
    "loss": "loss {:.4f}",
    "learning_rate": "lr {:.2e}",
    "interval_steps_per_second": "{:.2f} steps/s",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
    "rewards/margins": "margin {:.3f}",
    "rewards/accuracies": "accuracy {:.3f}",
    "eval_loss": "evaluation: loss {:.4f}",
    "eval_rewards/margins": "margin {:.3f}",
    "eval_rewards/accuracies": "accuracy {:.3f}",
    "eval_perplexity": "perplexity {:.2f}",
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

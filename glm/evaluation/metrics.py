"""How close generated text comes to its references: exact match, BLEU-4, ROUGE.

`METRICS` has the ways of scoring.

In `score` the unit is the character. ROUGE's usual tokenizer keeps only Latin letters and digits, which makes Chinese
score 0 (THUDM/GLM issue 124). BLEU takes sacrebleu's "char" tokenization, not "zh", which would count a number or a
Latin word as one unit, so that all metrics count alike. Both texts go through Unicode NFKC first, because the GLM
vocabularies do so, too: a model that cannot write a full-width comma is not marked down for it. White space does not
count as a unit.

`score_words` scores as ChatGLM-6B's evaluation on ADGEN does, so that its figures stand beside published ones: ROUGE
over jieba's words by rouge_chinese, whose n-grams are sets, not counts; BLEU of each row over all characters, nothing
normalised. Two things differ on purpose: an empty prediction counts as 0 where MindFormers leaves the row out, and no
row is rounded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from glm.errors import GLMError, UsageError
from glm.evaluation.subsequence import common_subsequence
from glm.evaluation.words import word_tools

Score = Callable[[Sequence[str], Sequence[str]], dict[str, float]]  # predictions, references → metrics
COUNTED_ROUGE = ("rouge1", "rouge2")  # rouge_score's; its own rougeL keeps a table of rows × columns
CHARACTER_METRICS = ("exact_match", "bleu4", *COUNTED_ROUGE, "rougeL")
WORD_METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


class CharacterTokenizer:
    """Every character but white space is a token. Has rouge_score's tokenizer interface."""

    def tokenize(self, text: str) -> list[str]:
        return list("".join(text.split()))


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Metrics of a whole evaluation set, each in 0..1.

    Args:
        predictions: generated texts; an empty one counts as 0.
        references: one expected text for each.

    Returns:
        exact_match: share of predictions equal to their reference.
        bleu4: corpus BLEU up to 4-grams with brevity penalty (Papineni et al., 2002), sacrebleu's exponential
            smoothing; orders longer than every prediction are left out.
        rouge1, rouge2, rougeL: F1 (Lin, 2004), mean over the rows.

    Raises:
        GLMError: different numbers of texts, or none.
    """
    _check_numbers(predictions, references)
    predictions, references = list(map(_normalise, predictions)), list(map(_normalise, references))
    equal = [bool(text) and text == reference for text, reference in zip(predictions, references, strict=True)]
    means = {"exact_match": sum(equal) / len(equal), "bleu4": _corpus_bleu(predictions, references)}
    return means | _rouge(predictions, references)


def _corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """sacrebleu's of all texts together, counted text by text: at once it keeps the n-grams of all references."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize="char", effective_order=True, force=True)
    rows = [bleu.corpus_score([text], [[other]]) for text, other in zip(predictions, references, strict=True)]
    counts, totals = (
        [sum(column) for column in zip(*(getattr(row, name) for row in rows), strict=True)]
        for name in ("counts", "totals")
    )
    lengths = (sum(getattr(row, name) for row in rows) for name in ("sys_len", "ref_len"))
    return BLEU.compute_bleu(counts, totals, *lengths, smooth_method="exp", effective_order=True).score / 100


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _rouge(predictions: list[str], references: list[str]) -> dict[str, float]:
    # Importing rouge_score loads the whole of nltk: a second that only an evaluation should pay.
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import fmeasure

    tokenizer = CharacterTokenizer()
    scorer = RougeScorer(COUNTED_ROUGE, tokenizer=tokenizer)
    rows = list(map(scorer.score, references, predictions))
    means = {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in COUNTED_ROUGE}
    in_order = (_in_order(*map(tokenizer.tokenize, pair)) for pair in zip(predictions, references, strict=True))
    return means | {"rougeL": sum(fmeasure(*shares) for shares in in_order) / len(rows)}


def _in_order(prediction: Sequence[str], reference: Sequence[str]) -> tuple[float, float]:
    """Precision and recall of ROUGE-L: the longest common subsequence in parts of each text."""
    common = common_subsequence(prediction, reference)
    return (common / len(prediction), common / len(reference)) if common else (0.0, 0.0)


def score_words(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Metrics of a whole evaluation set as ChatGLM-6B's ADGEN example has them, each in 0..100, the mean over the rows.

    Args:
        predictions: generated texts; an empty one counts as 0.
        references: one expected text for each.

    Returns:
        rouge-1, rouge-2, rouge-l: F1 over words (Lin, 2004).
        bleu-4: BLEU up to 4-grams of characters (Papineni et al., 2002) with NIST's geometric smoothing, method 3 of
            Chen and Cherry (2014); a text of less than four characters therefore never reaches 100.

    Raises:
        GLMError: different numbers of texts, or none.
    """
    _check_numbers(predictions, references)
    rows = [_score_row(*texts) for texts in zip(predictions, references, strict=True)]
    return {name: 100 * sum(row[name] for row in rows) / len(rows) for name in WORD_METRICS}


# How a task is scored: (predictions, references) → named figures. `Task.metrics` is one of these names.
METRICS: dict[str, Score] = {
    "characters": score,
    "words": score_words,
}
# The names of those figures; all of them are better the greater they are.
METRIC_NAMES = {"characters": CHARACTER_METRICS, "words": WORD_METRICS}
# What they import, of requirements-eval.txt.
METRIC_PACKAGES = {"characters": ("sacrebleu", "rouge_score"), "words": ("jieba", "rouge_chinese", "nltk")}


def require_packages(metrics: str) -> None:
    """Raises UsageError if a package that one of `METRICS` imports is not installed."""
    missing = [name for name in METRIC_PACKAGES[metrics] if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"scoring generated texts needs {' and '.join(missing)}: pip install -e '.[eval]', or evaluate the loss "
            "alone with --prediction_loss_only"
        )


def _check_numbers(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise GLMError(
            f"{len(predictions)} predictions for {len(references)} references; score needs one prediction a reference."
        )
    if not predictions:
        raise GLMError("0 predictions to score; evaluate at least one row.")


def _score_row(prediction: str, reference: str) -> dict[str, float]:
    if not prediction.strip() or not reference.strip():
        return dict.fromkeys(WORD_METRICS, 0.0)
    cut, rouge, bleu = word_tools()
    words = [" ".join(cut(text)) for text in (prediction, reference)]
    (found,) = rouge.get_scores(*words)
    scores = {name: values["f"] for name, values in found.items()}
    scores["rouge-l"] = _smoothed_f1(*_in_order(*(_rouge_words(rouge, text) for text in words)))
    return scores | {"bleu-4": bleu([list(reference)], list(prediction))}


def _rouge_words(rouge, text: str) -> list[str]:
    """The words as rouge_chinese counts them: it cuts sentences first, which also cuts words at their marks."""
    sentences = (" ".join(sentence.split()) for sentence in rouge.cut_sent(text) if sentence)
    return [word for sentence in sentences for word in sentence.split(" ")]


def _smoothed_f1(precision: float, recall: float) -> float:
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))  # rouge_chinese's

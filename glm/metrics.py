"""How close generated text comes to its references: exact match, BLEU-4, ROUGE.

The unit is the character. ROUGE's usual tokenizer keeps only Latin letters and digits, which makes Chinese score 0
(THUDM/GLM issue 124). BLEU takes sacrebleu's "char" tokenization, not "zh", which would count a number or a Latin word
as one unit, so that all metrics count alike. Both texts go through Unicode NFKC first, because the GLM vocabularies do
so, too: a model that cannot write a full-width comma is not marked down for it. White space does not count as a unit.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from sacrebleu.metrics import BLEU

from glm.errors import GLMError

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL")


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
    if len(predictions) != len(references):
        raise GLMError(
            f"{len(predictions)} predictions for {len(references)} references; score needs one prediction a reference."
        )
    if not predictions:
        raise GLMError("0 predictions to score; evaluate at least one row.")
    predictions, references = list(map(_normalise, predictions)), list(map(_normalise, references))
    equal = [bool(text) and text == reference for text, reference in zip(predictions, references, strict=True)]
    bleu = BLEU(tokenize="char", effective_order=True, force=True).corpus_score(predictions, [references])
    return {"exact_match": sum(equal) / len(equal), "bleu4": bleu.score / 100, **_rouge(predictions, references)}


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _rouge(predictions: list[str], references: list[str]) -> dict[str, float]:
    # Importing rouge_score loads the whole of nltk: a second that only an evaluation should pay.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE_TYPES, tokenizer=CharacterTokenizer())
    rows = list(map(scorer.score, references, predictions))
    return {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in ROUGE_TYPES}

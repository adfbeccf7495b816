"""glm.metrics against numbers worked out by hand and an independent computation."""

import math
import random
from collections import Counter

import pytest

from glm.errors import GLMError
from glm.metrics import score


def ngrams(text: str, n: int) -> Counter:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def plain_bleu(predictions: list[str], references: list[str]) -> float:
    """Corpus BLEU-4 from its definition, without smoothing."""
    logs = 0.0
    for n in range(1, 5):
        matches = sum((ngrams(p, n) & ngrams(r, n)).total() for p, r in zip(predictions, references, strict=True))
        logs += math.log(matches / sum(ngrams(p, n).total() for p in predictions)) / 4
    got, wanted = len("".join(predictions)), len("".join(references))
    return math.exp(logs) * min(1.0, math.exp(1 - wanted / got))


def plain_f1(prediction: str, reference: str, matches: int, n: int = 1) -> float:
    total = ngrams(prediction, n).total() + ngrams(reference, n).total()
    return 2 * matches / total if matches else 0.0


def longest_common(a: str, b: str) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        previous = row
        row = [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(row[-1], previous[j + 1]))
    return row[-1]


def test_perfect():
    assert score(["云溪桥建于哪一年", "长多少米"], ["云溪桥建于哪一年", "长多少米"]) == {
        key: pytest.approx(1.0) for key in ("exact_match", "bleu4", "rouge1", "rouge2", "rougeL")
    }


def test_by_hand():
    """甲乙丙丁戊 against 甲乙丙丁己: 4 of 5 characters, 3 of 4, 2 of 3, 1 of 2 n-grams, equal length."""
    result = score(["甲乙丙丁戊"], ["甲乙丙丁己"])
    assert result["exact_match"] == 0
    assert result["bleu4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert (result["rouge1"], result["rouge2"], result["rougeL"]) == pytest.approx((0.8, 0.75, 0.8))


def test_order_counts_for_rouge_l_only():
    """乙甲 against 甲乙: both characters are there, no pair is, and one of them is in order."""
    result = score(["乙甲"], ["甲乙"])
    assert (result["rouge1"], result["rouge2"], result["rougeL"]) == pytest.approx((1.0, 0.0, 0.5))


def test_brevity_penalty_by_hand():
    """Every n-gram is right, but 6 of 12 characters are missing: exp(1 - 12/6)."""
    assert score(["甲乙丙丁戊己"], ["甲乙丙丁戊己庚辛壬癸子丑"])["bleu4"] == pytest.approx(math.exp(-1))


def test_repetition_is_clipped():
    """甲甲甲甲 against 甲乙丙丁: one of four characters counts; precision and recall are 1/4."""
    assert score(["甲甲甲甲"], ["甲乙丙丁"])["rouge1"] == pytest.approx(0.25)


def test_against_an_independent_computation():
    rng = random.Random(0)
    references = ["".join(rng.choices("甲乙丙丁戊己庚辛12ab", k=rng.randint(8, 30))) for _ in range(40)]
    predictions = []
    for reference in references:
        start = rng.randint(0, 3)
        kept = [c if rng.random() < 0.8 else rng.choice("子丑寅") for c in reference[start:]]
        predictions.append("".join(kept))
    result = score(predictions, references)
    rows = list(zip(predictions, references, strict=True))
    assert result["bleu4"] == pytest.approx(plain_bleu(predictions, references))
    assert 0.2 < result["bleu4"] < 0.9
    for key, n in (("rouge1", 1), ("rouge2", 2)):
        expected = sum(plain_f1(p, r, (ngrams(p, n) & ngrams(r, n)).total(), n) for p, r in rows) / len(rows)
        assert result[key] == pytest.approx(expected)
    assert result["rougeL"] == pytest.approx(sum(plain_f1(p, r, longest_common(p, r)) for p, r in rows) / len(rows))


def test_empty_predictions_score_zero():
    assert set(score(["", "  "], ["甲乙丙丁", "甲"]).values()) == {0.0}
    assert set(score([""], [""]).values()) == {0.0}
    half = score(["", "甲乙丙丁"], ["甲乙丙丁", "甲乙丙丁"])
    assert half["exact_match"] == half["rouge1"] == half["rougeL"] == 0.5
    assert half["bleu4"] == pytest.approx(math.exp(-1))


def test_empty_reference():
    assert set(score(["甲"], [""]).values()) == {0.0}


def test_texts_shorter_than_four_characters():
    """A set of short answers can be perfect: orders that no prediction reaches are left out."""
    assert score(["红色", "甲"], ["红色", "甲"])["bleu4"] == pytest.approx(1.0)


def test_width_and_white_space_do_not_count():
    result = score(["在已知答案的前提下,问题:长12米?\n"], ["  在已知答案的前提下，问题：长１２米？"])
    assert list(result.values()) == pytest.approx([1.0] * 5)
    spaced = score(["甲 乙 丙 丁"], ["甲乙丙丁"])
    assert spaced["exact_match"] == 0
    assert (spaced["bleu4"], spaced["rougeL"]) == pytest.approx((1.0, 1.0))


def test_digits_and_latin_letters_count_by_character():
    """1920 for 1921: three of four characters are right; a word tokenizer would say none."""
    assert score(["1920"], ["1921"])["rouge1"] == pytest.approx(0.75)
    assert score(["1920年"], ["1921年"])["bleu4"] > 0.2


def test_wrong_numbers_of_texts():
    with pytest.raises(GLMError, match="2 predictions for 1 references"):
        score(["甲", "乙"], ["甲"])
    with pytest.raises(GLMError, match="0 predictions"):
        score([], [])

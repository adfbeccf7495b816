"""glm.evaluation.metrics against numbers worked out by hand and an independent computation."""

import json
import math
import os
import random
import subprocess
import sys
import tracemalloc
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from shared_files import SHARED

from glm.errors import GLMError, UsageError
from glm.evaluation import subsequence
from glm.evaluation.metrics import (
    METRIC_NAMES,
    METRIC_PACKAGES,
    METRICS,
    CharacterTokenizer,
    require_packages,
    score,
    score_words,
)
from glm.evaluation.words import word_tools

ROOT = Path(__file__).resolve().parents[2]
ADGEN = SHARED / "real" / "datasets" / "adgen.dev.jsonl"


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


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
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


@pytest.mark.parametrize("metric", METRICS)
def test_wrong_numbers_of_texts(metric):
    with pytest.raises(GLMError, match="2 predictions for 1 references"):
        METRICS[metric](["甲", "乙"], ["甲"])
    with pytest.raises(GLMError, match="0 predictions"):
        METRICS[metric]([], [])


def test_words_by_hand():
    """我 喜欢 苹果 against 我 喜欢 西瓜: 2 of 3 words, 1 of 2 pairs; of characters 3 of 5, 2 of 4, 1 of 3, and none of
    2 groups of four, for which half a match is counted."""
    result = score_words(["我喜欢苹果"], ["我喜欢西瓜"])
    assert list(result) == ["rouge-1", "rouge-2", "rouge-l", "bleu-4"]
    assert list(result.values())[:3] == pytest.approx([200 / 3, 50, 200 / 3])
    assert result["bleu-4"] == pytest.approx(100 * (3 / 5 * 2 / 4 * 1 / 3 * 0.5 / 2) ** 0.25)


def test_perfect_words():
    result = score_words(["我喜欢苹果。", "云溪桥建于哪一年？"], ["我喜欢苹果。", "云溪桥建于哪一年？"])
    assert list(result.values()) == pytest.approx([100] * 4)


def test_repeated_words_count_once():
    """苹果 苹果 西瓜 against 苹果 西瓜 西瓜 has the same set of words; with counts it would be 2 of 3."""
    result = score_words(["苹果苹果西瓜"], ["苹果西瓜西瓜"])
    assert list(result.values())[:3] == pytest.approx([100, 50, 200 / 3])


def test_short_predictions_by_hand():
    """All 3 characters are right, 2 of 5 are missing: exp(1 - 5/3); no group of four: half a match of one."""
    assert score_words(["我喜欢"], ["我喜欢苹果"])["bleu-4"] == pytest.approx(100 * 0.5**0.25 * math.exp(-2 / 3))
    assert score_words(["红色"], ["红色"])["bleu-4"] == pytest.approx(100 * (1 / 2 * 1 / 4) ** 0.25)


def test_rows_without_text_count_as_zero():
    """MindFormers leaves them out and so takes the mean over the others."""
    empty = score_words(["", " \n", "我喜欢苹果", "我喜欢苹果"], ["我喜欢苹果", "甲", "", "我喜欢苹果"])
    assert list(empty.values()) == pytest.approx([25] * 4)
    assert set(score_words(["西瓜"], ["苹果"]).values()) == {0.0}


def test_words_against_their_definitions(tmp_path):
    """On rows of ADGEN, each scored with the text of the next one."""
    if not ADGEN.is_file():
        pytest.skip(f"the real data is not at {ADGEN}")
    import jieba

    jieba.dt.tmp_dir = str(tmp_path)
    lines = ADGEN.read_text(encoding="utf-8").splitlines()[:25]
    texts = [json.loads(line)["summary"] for line in lines]
    pairs = list(zip(texts[1:], texts, strict=False))
    rows = [plain_row(*pair, *(jieba.lcut(text) for text in pair)) for pair in pairs]
    expected = [100 * sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert list(score_words(*zip(*pairs, strict=True)).values()) == pytest.approx(expected, abs=1e-4)
    assert expected[0] > 5 and expected[3] > 1


def plain_row(prediction: str, reference: str, words: list[str], wanted: list[str]) -> list[float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of words, smoothed BLEU of characters."""

    def f1(matches: int, *totals: int) -> float:
        return 2 * matches / sum(totals)

    pairs, wanted_pairs = set(pairwise(words)), set(pairwise(wanted))
    rouge = [
        f1(len({*words} & {*wanted}), len({*words}), len({*wanted})),
        f1(len(pairs & wanted_pairs), len(pairs), len(wanted_pairs)),
        f1(longest_common(words, wanted), len(words), len(wanted)),
    ]
    precision, missing = 1.0, 0
    for n in range(1, 5):
        matches = (ngrams(prediction, n) & ngrams(reference, n)).total()
        missing += not matches
        precision *= (matches or 0.5**missing) / ngrams(prediction, n).total()
    return [*rouge, precision**0.25 * min(1.0, math.exp(1 - len(reference) / len(prediction)))]


def test_words_are_cut_quietly_and_without_a_shared_file(tmp_path):
    """jieba announces that it loads its words, and keeps them where other users of the machine can write."""
    code = "from glm.evaluation.metrics import score_words; print(score_words(['苹果'], ['西瓜'])['rouge-1'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("0.0\n", "")
    assert list(tmp_path.iterdir()) == []


def random_texts(seed: int, count: int) -> list[str]:
    """Texts from few characters, so that much is common; with sentence marks, blanks, lines, digits and Latin words."""
    rng = random.Random(seed)
    signs = "甲乙丙丁我喜欢苹果龘靐。！？”…. \n\t12ab，"
    return ["".join(rng.choices(signs[: rng.randint(2, len(signs))], k=rng.randint(1, 40))) for _ in range(count)]


def test_characters_are_the_libraries_figures():
    """To the last bit, of texts and of the corpus; rouge_score's own rougeL keeps a whole table."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    predictions, references = random_texts(1, 300), random_texts(2, 300)
    texts = [
        [" ".join(unicodedata.normalize("NFKC", x).split()) for x in column] for column in (predictions, references)
    ]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=CharacterTokenizer())
    rows = [scorer.score(reference, prediction) for prediction, reference in zip(*texts, strict=True)]
    wanted = {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in rows[0]}
    bleu = BLEU(tokenize="char", effective_order=True, force=True).corpus_score(texts[0], [texts[1]]).score / 100
    found = score(predictions, references)
    assert found == {"exact_match": found["exact_match"], "bleu4": bleu} | wanted
    assert 0.1 < wanted["rougeL"] < 0.9 and bleu > 0.01


def test_words_are_the_libraries_figures(tmp_path):
    """To the last bit, with jieba's own search for unknown words and rouge_chinese's own longest subsequence."""
    code = (
        "import json, sys, jieba, rouge_chinese\n"
        "jieba.setLogLevel('WARNING')\n"
        "jieba.dt.tmp_dir = sys.argv[1]\n"
        "rows = [[' '.join(jieba.lcut(text)) for text in row] for row in json.load(sys.stdin)]\n"
        "print(json.dumps([{k: v['f'] for k, v in rouge_chinese.Rouge().get_scores(*row)[0].items()} for row in rows]))"
    )
    texts = [text for text in random_texts(3, 400) if text.strip()]
    pairs = list(zip(texts[::2], texts[1::2], strict=False))
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    result = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, check=True)
    wanted = json.loads(result.stdout)
    for pair, row in zip(pairs, wanted, strict=True):
        found = score_words(*([text] for text in pair))
        assert {name: value for name, value in found.items() if name != "bleu-4"} == {
            name: 100 * value for name, value in row.items()
        }, pair
    assert any(0 < row["rouge-l"] < row["rouge-1"] for row in wanted)


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_the_longest_common_subsequence(monkeypatch, block):
    """Whatever the blocks; sequences of anything that can be looked up."""
    monkeypatch.setattr(subsequence, "BLOCK", block)
    rng = random.Random(block)
    for _ in range(200):
        first, second = (rng.choices(("a", "bc", "", 4, "d")[: rng.randint(1, 5)], k=rng.randint(0, 30)) for _ in "12")
        assert subsequence.common_subsequence(first, second) == longest_common(first, second), (first, second)


@pytest.mark.long
@pytest.mark.parametrize("metric", METRICS)
def test_long_texts_take_little_memory(metric):
    """4,000 characters: a table of all pairs has 16 million places, in 128 MB at least."""
    rng = random.Random(0)
    long = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(4_000))
    METRICS[metric](["甲"], ["乙"])  # loads the libraries
    tracemalloc.start()
    for pair in ((long[::-1], long), (long, "甲乙"), ("甲乙", long), ("龘" * 4_000, long)):
        assert METRICS[metric](*([text] for text in pair))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("metric", METRICS)
def test_the_names_of_the_figures(metric):
    assert tuple(METRICS[metric](["甲乙"], ["甲丙"])) == METRIC_NAMES[metric]


@pytest.mark.parametrize("metrics, package", [(m, package) for m in METRICS for package in METRIC_PACKAGES[m]])
def test_a_package_that_is_missing(monkeypatch, metrics, package):
    """It is named before anything is scored, and scoring does need it."""
    require_packages(metrics)
    for loaded in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"^scoring generated texts needs {package}: pip install -e "):
        require_packages(metrics)
    word_tools.cache_clear()
    with pytest.raises(ImportError):
        METRICS[metrics](["甲乙"], ["甲丙"])


def test_the_packages_are_those_of_the_eval_extra():
    lines = (ROOT / "requirements-eval.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0].replace("-", "_") for line in lines if line and not line.startswith("#")}
    assert {package for packages in METRIC_PACKAGES.values() for package in packages} == pinned

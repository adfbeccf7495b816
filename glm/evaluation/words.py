"""jieba's words, rouge_chinese's counts and nltk's BLEU, loaded where an evaluation needs them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

_IMPOSSIBLE = -3.14e100  # jieba's logarithm of a probability of 0


@cache
def word_tools() -> tuple[Callable, Rouge, Callable]:  # noqa: F821
    """Words of a text, ROUGE-1 and ROUGE-2 of texts of words, smoothed BLEU: three seconds that only an evaluation
    should pay."""
    with warnings.catch_warnings():
        # jieba imports pkg_resources, which warns that it will go.
        warnings.simplefilter("ignore")
        import jieba
        from rouge_chinese import Rouge
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    jieba.setLogLevel("WARNING")
    jieba.finalseg.viterbi = likely_states  # its own copies a whole path at every character
    words = jieba.Tokenizer()
    # jieba would load whatever lies at /tmp/jieba.cache, and anybody can write there.
    with tempfile.TemporaryDirectory() as words.tmp_dir:
        words.initialize()
    rouge = Rouge(metrics=["rouge-1", "rouge-2"])
    return words.lcut, rouge, partial(sentence_bleu, smoothing_function=SmoothingFunction().method3)


def likely_states(
    text: str, states: str, start: Mapping, moves: Mapping, emits: Mapping
) -> tuple[float, Sequence[str]]:
    """jieba's search for the likeliest states of unknown words' characters (Viterbi, 1967), in linear time.

    Args:
        text: the characters.
        states: B, M, E, S: a character begins a word, stands within it, ends it, or is one.
        start, moves, emits: logarithms of probabilities: of the first state, from a state to the next, of a character.

    Returns:
        The logarithm of the path's probability, and the state of each character. Ties fall as in jieba.
    """
    from jieba.finalseg import PrevStatus

    scores = {state: start[state] + emits[state].get(text[0], _IMPOSSIBLE) for state in states}
    came_from: list[dict[str, str]] = []
    for character in text[1:]:
        best = {}
        for state in states:
            emitted = emits[state].get(character, _IMPOSSIBLE)
            ways = ((scores[old] + moves[old].get(state, _IMPOSSIBLE) + emitted, old) for old in PrevStatus[state])
            best[state] = max(ways)
        scores = {state: score for state, (score, _) in best.items()}
        came_from.append({state: old for state, (_, old) in best.items()})
    score, last = max((scores[state], state) for state in "ES")
    path = [last]
    for step in reversed(came_from):
        path.append(step[path[-1]])
    return score, path[::-1]

"""Very long runs of one character: the ids of the uncut text, in bounded time and memory, in every family."""

import random
import resource
import time
from pathlib import Path

import pytest

from glm.encoding.examples import Example
from glm.encoding.processor import open_processor
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer, byte_pairs
from glm.tokenizers.added_tokens import AddedToken, Splitter
from glm.tokenizers.byte_pairs import BytePairs

pytestmark = pytest.mark.long

DATA = Path(__file__).resolve().parents[2] / "data"
FAMILIES = ["glm-tiny-chinese", "chatglm-tiny", "glm4-tiny", "glm4-0414-tiny"]
LONG = 1_500_000
# Blanks merge in pairs of equal length and with line ends and words, so that a wrong cut shows in the ids.
MERGES = [b"  ", b"    ", b" " * 8, b"\n\n", b" \n", b" \n\n", b"\t\t", b"!\n", b"!\n\n", b" a", b" !", b"aa", b"\r\n"]
RANKS = {bytes([byte]): byte for byte in range(256)} | {piece: 256 + i for i, piece in enumerate(MERGES)}
SPACES = [" ", "\n", "\r", "\t", "\u3000", "\xa0", "\x85", "\u2028"]
OTHERS = ["a", "1", "!", "中", "'s", "\x1c", "\u200b", "é", "'", "。", "٣", "\U0002ebf0"]


def test_runs_are_cut_where_the_pattern_cuts(monkeypatch):
    """With a limit of a few characters every kind of run and neighbour occurs, and tiktoken can do the whole text."""
    rng, tokenizer = random.Random(7), BytePairs(RANKS)
    for _ in range(6000):
        monkeypatch.setattr(byte_pairs, "LONG_RUN", rng.randint(1, 6))
        parts = [rng.choices(rng.choice([SPACES, SPACES[:2], [" "], OTHERS]), k=rng.randint(0, 9)) for _ in range(5)]
        text = "".join(character for part in parts for character in part)
        assert tokenizer.encode(text) == tokenizer._encoding.encode_ordinary(text), repr(text)


@pytest.mark.parametrize("unit", [" ", "\n", "\t", "\u3000", " \n", "\n ", "a", "!", "1", "中", "!\n"])
@pytest.mark.parametrize("difference", [-1, 0, 1, 2])
def test_lengths_around_the_cut(unit, difference):
    tokenizer, count = BytePairs(RANKS), byte_pairs.LONG_RUN + difference
    for text in (unit * count, f"a!{unit * count}中", f"a{unit * count}!"):
        assert tokenizer.encode(text) == tokenizer._encoding.encode_ordinary(text)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text", [" " * LONG, "!" + "\n" * LONG + "x", "中" * (LONG // 3)], ids=["blanks", "lines", "words"]
)
def test_a_prompt_and_a_row(family, text):
    """A prompt and a training row of 1.5 million characters."""
    processor = open_processor(DATA / family, (4 * LONG, 32))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert processor.text_prompt(f"甲{text}")
    processor.src_length = 64
    assert processor.rows(Example.of_pair(f"甲{text}", f"乙{text}"))
    assert time.process_time() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2_000_000  # kB


@pytest.mark.parametrize("family", FAMILIES[2:])
def test_text_comes_back(family):
    tokenizer, text = GLMTokenizer.from_pretrained(DATA / family), f"甲 {' ' * LONG}乙"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_both_files_of_glm_4_agree():
    first, second = (GLMTokenizer.from_pretrained(DATA / name) for name in FAMILIES[2:])
    for text in (" " * LONG, f"a{' ' * LONG}b", f"。{chr(10) * LONG}b", f"。{' ' * LONG}{chr(10)}  b"):
        ids, others = (each.encode(text, add_special_tokens=False) for each in (first, second))
        assert ids == others


def test_a_panic_is_one_line(monkeypatch):
    monkeypatch.setattr(byte_pairs, "LONG_RUN", 10 * LONG)
    with pytest.raises(GLMError, match=r"^a text of 1,500,000 characters cannot be cut into tokens \(.*StackOverflow"):
        BytePairs(RANKS).encode(" " * LONG)


def test_a_token_that_takes_blanks_along_looks_at_each_once():
    splitter = Splitter([AddedToken("<l>", 1, lstrip=True), AddedToken("<r>", 2, rstrip=True)])
    begin = time.process_time()
    assert list(splitter.split(" " * LONG)) == [" " * LONG]
    parts = [
        part if isinstance(part, str) else part.id for part in splitter.split(f"a{' ' * LONG}<l><r>{' ' * LONG}<l>")
    ]
    assert parts == ["a", 1, 2, 1]
    assert time.process_time() - begin < 5

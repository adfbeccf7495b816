"""The tokenizers in C++ give Python's ids and texts, streamed as well."""

import random

import pytest
from cpp_texts import NASTY, random_texts, samples
from tokenize_program import NAMES, tokenize_program

from glm.tokenizers.stream import StreamDecoder

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory, programs):
    """A tokenizer and what asks the same of C++."""
    processor, ask = tokenize_program(request.param, tmp_path_factory.mktemp("tokenizer"), programs)
    return processor.tokenizer, ask


def streamed(tokenizer, ids) -> list[str]:
    stream = StreamDecoder(tokenizer)
    return [*(stream.put(index) for index in ids), stream.end()]


def is_tie(tokenizer, some: list[int], others: list[int]) -> bool:
    """Whether both are the same pieces in another order: of such, one sample text in 31,445 has the other one.

    It has a table with a line of hyphens, and ChatGLM-6B's vocabulary several pieces of them with the same sum.
    """
    pieces = getattr(tokenizer, "_pieces", None)
    if pieces is None or sorted(some) != sorted(others) or len(some) < 8:
        return False
    return tokenizer.text_of(some) == tokenizer.text_of(others)


def check_texts(case, texts: list[str], stream: bool = True) -> None:
    tokenizer, ask = case
    texts = [text for text in texts if text.encode("utf-8", "ignore").decode() == text]
    ties = set()
    for plain in (False, True):
        answers = ask([{"text": text, "plain": plain, "stream": stream} for text in texts])
        for text, found in zip(texts, answers, strict=True):
            ids = tokenizer.text_ids(text, split_special_tokens=plain)
            if found["ids"] != ids and is_tie(tokenizer, found["ids"], ids):
                ties.add(text)
                continue
            assert found["ids"] == ids, repr(text)
            assert found["text"] == tokenizer.text_of(ids), repr(text)
            assert not stream or found["pieces"] == streamed(tokenizer, ids), repr(text)
    assert len(ties) <= 1


def test_texts_that_tokenizers_have_trouble_with(case):
    check_texts(case, [*NASTY, *random_texts(400)])


def test_sample_texts(case):
    texts = [*dict.fromkeys(samples())]
    assert len(texts) > 2000
    check_texts(case, texts[:: len(texts) // 1000])


@pytest.mark.slow
def test_all_sample_texts(case):
    check_texts(case, [*dict.fromkeys(samples())], stream=False)


@pytest.mark.slow
def test_many_random_texts(case):
    check_texts(case, random_texts(20_000, seed=5), stream=False)


def test_long_runs(case):
    """Beyond what tiktoken's own pattern can cut."""
    check_texts(case, ["a" + " " * 120_000 + "b", "x\n" * 3000 + "  ", "字" * 5000], stream=False)


def test_white_space(case):
    _, ask = case
    ends = ["\r\n", *"\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000"]
    texts = ["", *ends, *(f"{end}a{end}{end}好{end}" for end in ends), "a\n\n", *NASTY, *random_texts(200)]
    texts = [text for text in texts if text.encode("utf-8", "ignore").decode() == text]
    for text, found in zip(texts, ask([{"lines": text} for text in texts]), strict=True):
        assert found == {"joined": " ".join(text.splitlines()), "stripped": text.strip()}, repr(text)


def test_any_ids(case):
    """Ids in any order, half characters and ids outside of the vocabulary among them."""
    tokenizer, ask = case
    draw = random.Random(1)
    rows = [[draw.randrange(len(tokenizer) + 5) for _ in range(draw.randrange(1, 30))] for _ in range(300)]
    for ids, found in zip(rows, ask([{"ids": ids} for ids in rows]), strict=True):
        assert found["text"] == tokenizer.text_of(ids), ids
        assert found["pieces"] == streamed(tokenizer, ids), ids

"""Rows of text as ids: where what follows a context begins."""

from pathlib import Path

import pytest

from glm.encoding.processor import ChatProcessor
from glm.errors import UsageError
from glm.evaluation.likelihood import Row
from glm.evaluation.likelihood.tokens import RowEncoder
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[3] / "data"


@pytest.fixture(scope="module")
def encode() -> RowEncoder:
    return RowEncoder(ChatProcessor(GLMTokenizer.from_pretrained(DATA / "glm4-tiny")), 100)


def test_a_target_by_itself(encode):
    """ " is" is one token of this vocabulary, so "s" behind "What i" is none of the whole text's."""
    with pytest.raises(UsageError, match="begins with a token that also holds the text's end"):
        encode(Row("What i", ("s",)))
    row = encode(Row("What i", ("s", "A"), alone=True))
    assert row.targets == ([115], [65])
    assert row.context == encode(Row("What i", ("!",))).context


def test_it_is_the_same_where_no_token_crosses(encode):
    together, alone = (encode(Row("答案：", ("A", "B"), alone=alone)) for alone in (False, True))
    assert together == alone

"""Sizes as people write them, and as flags take them."""

import argparse

import pytest

from glm.cli.script import size
from glm.files.sizes import in_words, size_in_bytes


@pytest.mark.parametrize(
    ("text", "expected"), [("5GB", 5 * 10**9), ("5 GiB", 5 << 30), ("1.5k", 1500), ("7", 7), (" 2mb ", 2 * 10**6)]
)
def test_sizes(text, expected):
    assert size_in_bytes(text) == size(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-5GB", "huge", "5XB", "0.0001"])
def test_what_is_no_size(text):
    message = f"{text!r} is not a size: write something like 5GB or 500MB"
    with pytest.raises(ValueError) as error:
        size_in_bytes(text)
    assert str(error.value) == message
    with pytest.raises(argparse.ArgumentTypeError) as error:
        size(text)
    assert str(error.value) == message


def test_in_words():
    assert [in_words(size) for size in (999, 1500, 19 * 10**9)] == ["999 B", "1.5 kB", "19.0 GB"]

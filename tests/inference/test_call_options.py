"""Options of Python calls: Hugging Face's names and values."""

import numpy as np
import pytest
from tiny_chat import processor_of_tiny

from glm import GenerationConfig
from glm.errors import UsageError
from glm.generation.options import NARROWEST
from glm.inference.call_options import call_config


@pytest.fixture(scope="module")
def processor():
    return processor_of_tiny("glm4")


DEFAULT = GenerationConfig(max_length=12, gnmt_length=False)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"presence_penalty": 1, "frequency_penalty": -0.5}, {"presence_penalty": 1.0, "frequency_penalty": -0.5}),
        ({"do_sample": True, "min_p": np.float32(0.25)}, {"do_sample": True, "min_p": 0.25, "top_k": 50}),
        ({"do_sample": True, "temperature": 0}, {}),
        ({"do_sample": True, "temperature": 0.0, "top_k": 5}, {"top_k": 5}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"do_sample": True}, {"do_sample": True, "top_k": 50}),
        ({"do_sample": True, "top_k": -1}, {"do_sample": True}),
        ({"do_sample": True, "top_k": 0}, {"do_sample": True}),
        ({"do_sample": True, "top_k": None, "top_p": None}, {"do_sample": True}),
        ({"do_sample": True, "top_p": 0}, {"do_sample": True, "top_k": 50, "top_p": NARROWEST}),
        ({"suppress_tokens": [9, 4], "begin_suppress_tokens": None}, {"suppress_tokens": (4, 9)}),
        ({"repetition_penalty": None, "min_p": None}, {}),
    ],
    ids=str,
)
def test_options(processor, options, wanted):
    assert call_config(processor, options, 5) == GenerationConfig(**vars(DEFAULT) | wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": "1.1"}, "repetition_penalty is '1.1', and must be a number"),
        ({"repetition_penalty": -1}, "repetition_penalty is -1, and must be a number above 0"),
        ({"suppress_tokens": 5}, "suppress_tokens is 5, and must be a list of token ids"),
        ({"suppress_tokens": ["a"]}, r"suppress_tokens is \['a'\], and must be a list of token ids"),
        ({"suppress_tokens": "12"}, "suppress_tokens is '12', and must be a list of token ids"),
        ({"min_p": 2}, "min_p is 2, and must be between 0 and 1"),
        ({"presence_penality": 1}, "unknown option 'presence_penality'; known: .*presence_penalty"),
    ],
)
def test_what_is_refused(processor, options, message):
    with pytest.raises(UsageError, match=message):
        call_config(processor, options, 5)

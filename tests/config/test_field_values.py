"""Values of the wrong kind in a configuration: one line that names field and value, in a file and in a call."""

import logging

import pytest
from test_config import CARD, CHATGLM, FIVE, FOUR, GLM, REMOTE, read

from glm import GLMConfig
from glm.config.fields import PlainConfig
from glm.errors import GLMError

NAN, INF = float("nan"), float("inf")
ONE = {"rope_theta": 1, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        # a text is true, "false" as well
        (FIVE, {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', and must be true or false"),
        (FIVE, {"attention_bias": "true"}, "attention_bias is 'true', and must be true or false"),
        (REMOTE, {"add_qkv_bias": 2}, "add_qkv_bias is 2, and must be true or false"),
        (FIVE, {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', and must be a number, at least 0"),
        (CHATGLM, {"layernorm_epsilon": -1e-5}, "layernorm_epsilon is -1e-05, and must be a number, at least 0"),
        (GLM, {"output_dropout_prob": "0.1"}, "output_dropout_prob is '0.1', and must be a number between 0 and 1"),
        (GLM, {"attention_dropout_prob": 10}, "attention_dropout_prob is 10, and must be a number between 0 and 1"),
        (FIVE, {"initializer_range": NAN}, "initializer_range is nan, and must be a number, at least 0"),
        (FIVE, {"rope_parameters": ONE | {"rope_theta": "1e4"}}, "rope_theta is '1e4', and must be a number above 0"),
        (FOUR, {"rope_theta": 0}, "rope_theta is 0, and must be a number above 0"),
        (FOUR, {"rope_theta": INF}, "rope_theta is inf, and must be a number above 0"),
        (FOUR, {"rope_theta": True}, "rope_theta is True, and must be a number above 0"),
        (FOUR, {"rope_theta": 1, "rope_scaling": CARD}, "rope_theta is 1, with which yarn has no meaning"),
        (FIVE, {"rope_parameters": CARD | ONE}, "rope_theta is 1, with which yarn has no meaning"),
        (FOUR, {"rope_scaling": CARD | {"factor": 1e308}}, "factor of rope_scaling is 1e+308, and must be a number"),
        (FOUR, {"partial_rotary_factor": "0.5"}, "partial_rotary_factor is '0.5', and must be a number above 0, at"),
        (FOUR, {"partial_rotary_factor": 2}, "partial_rotary_factor is 2, and must be a number above 0, at most 1"),
        (REMOTE, {"rope_ratio": "500"}, "rope_ratio is '500', and must be a number above 0"),
        (REMOTE, {"rope_ratio": -1}, "rope_ratio is -1, and must be a number above 0"),
        (GLM, {"intermediate_size": "100"}, "intermediate_size is '100', and must be a whole number above 0"),
        (GLM, {"max_sequence_length": "512"}, "max_sequence_length is '512', and must be a whole number above 0"),
        (REMOTE, {"multi_query_group_num": 0}, "multi_query_group_num is 0, and must be a whole number above 0"),
        (
            REMOTE,
            {"rope_scaling": {"type": "default", "factor": 2}},
            'rope_scaling is {"type": "default", "factor": 2}',
        ),
        (FIVE, {"eos_token_id": "2"}, "eos_token_id is '2', and must be a token id"),
        (FIVE, {"eos_token_id": [2, "3"]}, "eos_token_id is '3', and must be a token id"),
        (CHATGLM, {"pad_token_id": [3]}, "pad_token_id is [3], and must be one token id"),
        (CHATGLM, {"bos_token_id": 4.5}, "bos_token_id is 4.5, and must be a token id"),
    ],
)
def test_a_value_of_another_kind_is_one_line(base, changes, message, tmp_path):
    with pytest.raises(GLMError) as error:
        read(tmp_path, base | changes)
    assert message in str(error.value) and str(tmp_path / "config.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (FIVE, {"tie_word_embeddings": 0, "attention_bias": 1}, {"tie_word_embeddings": False, "attention_bias": True}),
        (FIVE, {"rms_norm_eps": 0, "attention_dropout": 0}, {"norm_eps": 0, "attention_dropout": 0}),
        (FIVE, {"eos_token_id": [2.0, 3], "pad_token_id": -1}, {"eos_token_id": [2, 3], "pad_token_id": None}),
        (FIVE, {"eos_token_id": [], "pad_token_id": None}, {"eos_token_id": [], "pad_token_id": None}),
        (FOUR, {"rope_theta": 1, "torch_dtype": "half"}, {"rope_theta": 1, "dtype": "float16"}),
        (FOUR, {"rope_theta": 500000}, {"rope_theta": 500000}),
        (GLM, {"intermediate_size": 100.0, "max_sequence_length": 99.0}, {"intermediate_size": 100}),
        (REMOTE, {"rope_scaling": {"type": "default"}}, {"rope_scaling": None}),
        (CHATGLM, {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, {"rope_scaling": None}),
        (REMOTE, {"rope_ratio": 0.5}, {"rope_theta": 5000.0}),
    ],
)
def test_other_ways_to_write_a_value(base, changes, expected, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path, base | changes)
    assert {name: getattr(found, name) for name in expected} == expected
    assert not caplog.text


@pytest.mark.parametrize("of", [GLMConfig, PlainConfig])
def test_values_in_a_call(of):
    for name, value in {"norm_eps": "1e-5", "tie_word_embeddings": "no", "rope_theta": 0}.items():
        with pytest.raises(GLMError, match=f"{name} is {value!r}, and must be"):
            of(family="glm4", num_attention_heads=2, head_dim=8, **{name: value})
    with pytest.raises(GLMError, match=r"partial_rotary_factor 0.1 turns no dimension of a head of 8"):
        of(family="glm4", num_attention_heads=2, head_dim=8, partial_rotary_factor=0.1)
    with pytest.raises(GLMError, match="rope_theta is 1, with which yarn"):
        of(family="glm4", num_attention_heads=2, head_dim=8, rope_theta=1.0, rope_scaling=CARD)

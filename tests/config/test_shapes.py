"""The shapes that are written down are those that a model has."""

import pytest
from tiny_chat import KINDS, chat_model
from tiny_glm import small_prompt, tiny_model

from glm.config.shapes import cache_shapes


@pytest.mark.parametrize("name", ["glm", *KINDS])
def test_what_a_cache_keeps_is_what_a_model_gives_it(name):
    model = tiny_model() if name == "glm" else chat_model(name)
    prompt = small_prompt(300, rows=2)
    positions = prompt.position_ids[:, : model.model.positions.position_rows]
    prefix = model.prefill(prompt.input_ids, prompt.attention_mask, positions, prompt.prefix_length)
    found = [
        [(part, (tensor.shape[0], tensor.shape[3])) for part, tensor in zip(("key", "value"), both, strict=True)]
        for both in zip(prefix.keys, prefix.values, strict=True)
    ]
    assert cache_shapes(model.config) == found

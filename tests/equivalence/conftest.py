"""What the equivalences share."""

import pytest

from glm.config import chunks
from glm.model import attention_choice, block_attention


@pytest.fixture(params=["dense", "blocks"])
def attention(request, monkeypatch) -> None:
    """Both ways in which a CPU attends; rows of these lengths are dense by themselves."""
    if request.param == "blocks":
        monkeypatch.setattr(chunks, "DENSE_TOKENS", 0)
        monkeypatch.setattr(attention_choice, "DenseAttention", None)  # a call would fail
        monkeypatch.setattr(block_attention, "query_block", lambda heads, tokens: 16)

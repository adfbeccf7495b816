"""How much of a long row is computed at once; what the model takes and what glm.memory counts. Needs no Paddle."""

LOGITS = 160 * 2**20  # 640 MiB in float32: of GLM-4's vocabulary those of 1,107 tokens


def even_chunks(tokens: int, most: int) -> list[range]:
    """Ranges of nearly equal length, `most` at most, that make up `tokens`."""
    count = -(-tokens // most)
    return [range(tokens * i // count, tokens * (i + 1) // count) for i in range(count)]

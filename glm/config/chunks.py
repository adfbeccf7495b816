"""How much of a long row is computed at once; what the model takes and what glm.memory counts. Needs no Paddle."""

from collections.abc import Callable

LOGITS = 160 * 2**20  # 640 MiB in float32: of GLM-4's vocabulary those of 1,107 tokens

SCORES = 2**25  # of all heads of a row: 128 MiB in float32
FEWEST_QUERIES, MOST_QUERIES = 16, 128
DENSE_TOKENS = 1024  # of the longest row whose scores are computed all at once: up to there that is no slower
SPARSE_TOKENS, SPARSE = 512, 0.25  # above so many, blocks are faster where rows see at most this share of all pairs
BIAS_TOKENS = 4096  # of the longest row for which flash attention is given a bias [T, T]


def attends_in_blocks(tokens: int, seen_share: Callable[[], float]) -> bool:
    """Whether rows of so many tokens attend in blocks of queries, where no flash attention takes them.

    Args:
        seen_share: the pairs of tokens that see each other, as a share of all.
    """
    return tokens > DENSE_TOKENS or (tokens > SPARSE_TOKENS and seen_share() <= SPARSE)


def query_block(heads: int, tokens: int) -> int:
    """Queries whose attention scores exist at once, in a row of so many tokens."""
    return min(MOST_QUERIES, max(FEWEST_QUERIES, SCORES // (heads * tokens)))


def block_scores(heads: int, tokens: int) -> int:
    """Attention scores that exist at once, of a long row in blocks of queries."""
    return heads * tokens * _longest(tokens, query_block(heads, tokens))


def chunk_logits(tokens: int, width: int) -> int:
    """Logits that exist at once, of the trained tokens of a batch, for a head of `width` columns on this rank."""
    return width * _longest(tokens, head_chunk(width))


def _longest(tokens: int, most: int) -> int:
    return max(map(len, even_chunks(tokens, most)))


def head_chunk(width: int) -> int:
    """Tokens whose logits may exist at once."""
    return max(1, LOGITS // width)


def even_chunks(tokens: int, most: int) -> list[range]:
    """Ranges of nearly equal length, `most` at most, that make up `tokens`."""
    count = -(-tokens // most)
    return [range(tokens * i // count, tokens * (i + 1) // count) for i in range(count)]

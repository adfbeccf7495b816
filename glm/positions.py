"""Where a token stands: a table of position schemes with one interface.

A scheme does its work at one or both of two places: `embed` adds to the word embeddings, `rotate` turns queries and
keys. Position ids are [B, P, T] int64, with P rows a token (GLM: position in the text, position in the blank).
"""

from paddle import Tensor, nn


class Learned2DPositions(nn.Layer):
    """Two learned tables, for the place in the text and for the place inside the blank (GLM, arXiv:2103.10360, 2.1)."""

    def __init__(self, config):
        super().__init__()
        rows, width = config.max_position_embeddings + 1, config.hidden_size
        self.position_embeddings = nn.Embedding(rows, width)
        self.block_position_embeddings = nn.Embedding(rows, width)

    def embed(self, x_BTH: Tensor, position_ids_BPT: Tensor) -> Tensor:
        position, block = position_ids_BPT[:, 0], position_ids_BPT[:, 1]
        return x_BTH + self.position_embeddings(position) + self.block_position_embeddings(block)

    def rotate(self, q_BTND: Tensor, k_BTND: Tensor, position_ids_BPT: Tensor) -> tuple[Tensor, Tensor]:
        return q_BTND, k_BTND


POSITIONS = {"learned_2d": Learned2DPositions}

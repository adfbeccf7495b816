"""Where tokens stand, in a graph: the table of glm/model/positions.py once more.

Shapes: B rows, P position ids per token, T tokens, H hidden, D dimensions of a head, E of which are rotated, F angles
that each row of position ids turns by.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from glm.export.onnx.graph import Graph
from glm.model.rotary import inverse_frequencies, scaled_frequencies


class Learned2D:
    """Two learned tables are added to the embeddings (GLM).

    Attributes:
        rows: P.
        bidirectional: whether prompts are read in both directions.
        neighbours: whether dimensions that turn together stand side by side.
    """

    rows = 2
    bidirectional = True
    neighbours = False

    def embed(self, graph: Graph, config: Any, x: str, positions: str) -> str:
        shape = (config.max_position_embeddings + 1, config.hidden_size)
        for row, table in enumerate(("position_embeddings", "block_position_embeddings")):
            ids = graph.node("Gather", positions, graph.constant(np.int64(row)), axis=1)
            x = graph.node(
                "Add", x, graph.node("Gather", graph.data.copy(f"model.positions.{table}.weight", shape), ids)
            )
        return x

    def frequencies(self, config: Any) -> tuple[np.ndarray, float]:
        """[F] float32, none where nothing turns, and what cosines and sines are multiplied by."""
        return np.zeros(0, dtype="float32"), 1.0

    def pairs(self, config: Any) -> np.ndarray:
        """[2, E/2], the dimensions of a head that turn together, in the order of the angles."""
        return np.zeros((2, 0), dtype="int64")

    def halves(self, config: Any) -> np.ndarray:
        """[D], the dimensions of a head with the first of all pairs in front, then the second, then what stays.

        Scores do not depend on the order of dimensions, so a graph may have queries and keys in this one.
        """
        turning = self.pairs(config).reshape(-1)
        return np.concatenate([turning, np.setdiff1d(np.arange(config.head_dim), turning)])


class PartialRotary(Learned2D):
    """The first E dimensions of a head are rotated in neighbouring pairs (GLM-4)."""

    rows = 1
    bidirectional = False
    neighbours = True

    def embed(self, graph: Graph, config: Any, x: str, positions: str) -> str:
        return x

    def frequencies(self, config: Any) -> tuple[np.ndarray, float]:
        return scaled_frequencies(config)

    def pairs(self, config: Any) -> np.ndarray:
        return np.arange(2 * len(self.frequencies(config)[0])).reshape(-1, 2).T


class PartialRotaryHalves(PartialRotary):
    """The same in pairs E/2 apart (GLM-4.5)."""

    neighbours = False

    def pairs(self, config: Any) -> np.ndarray:
        return np.arange(2 * len(self.frequencies(config)[0])).reshape(2, -1)


class Rotary2D(PartialRotary):
    """Half of a head is rotated by either position (ChatGLM-6B).

    In the model dimension i goes with i + D/4 inside each half, in `halves` with i + D/2 of the whole head, which is
    one rotation with the angles of both positions side by side: the second and the third quarter of a head change
    places.
    """

    rows = 2
    bidirectional = True
    neighbours = False

    def frequencies(self, config: Any) -> tuple[np.ndarray, float]:
        exact = inverse_frequencies(config.head_dim // 2, config.rope_theta)
        return exact.astype("float16").astype("float32"), 1.0  # as published

    def pairs(self, config: Any) -> np.ndarray:
        return np.arange(config.head_dim).reshape(2, 2, -1).transpose(1, 0, 2).reshape(2, -1)


Positions = Learned2D | PartialRotary | Rotary2D
POSITIONS = {
    "learned_2d": Learned2D(),
    "partial_rotary": PartialRotary(),
    "partial_rotary_halves": PartialRotaryHalves(),
    "rotary_2d": Rotary2D(),
}


def cos_sin(graph: Graph, positions: str, frequencies: np.ndarray, scale: float) -> list[str]:
    """Of the angles of all position rows, one behind the other, times `scale`: [B, T, E/2] each."""
    places = graph.node("Cast", graph.node("Transpose", positions, perm=[0, 2, 1]), to=TensorProto.FLOAT)
    last = graph.constant(np.array([-1], dtype="int64"))
    angles = graph.node("Mul", graph.node("Unsqueeze", places, last), graph.constant(frequencies))
    angles = graph.node("Reshape", angles, graph.constant(np.array([0, 0, -1], dtype="int64")))
    found = [graph.node("Cos", angles), graph.node("Sin", angles)]
    return found if scale == 1.0 else [graph.node("Mul", x, graph.constant(np.float32(scale))) for x in found]

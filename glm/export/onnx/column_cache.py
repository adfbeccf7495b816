"""A cache that a graph reads where it lies, and gives back what it adds, in standard operators of opset 17.

Inputs and outputs are those of Paddle's step graph (glm/export/paddle_step.py): input_ids [B, T], position_ids
[B, P, T], lengths [B] (positions of the cache that each sequence has read), prefix_length [B] (leading new tokens that
see each other in both directions), last [B, M] (columns whose logits leave), all int64; past_PART_i [B, K, C, D]
float32 of every part of the cache and layer i; logits [B, M, V] float32, and new [parts, B, K, T, D] float32, the parts
of the new tokens, which the caller stores (glm/runtime/columns.py). Parts are key and value of a layer by turns, or one
latent, which is both.

Shapes: B rows, T tokens, M of them whose logits are asked for, P position ids per token, N heads, K key/value heads,
R = N/K of them that share one, C positions of the cache, D width of a head, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from glm.config.shapes import cache_shapes
from glm.export.onnx.graph import Graph

MASKED = -30000.0  # far below any score, as in glm/model/visibility.py


class ColumnCache:
    """The graph's inputs and outputs, and attention over the cache: scores of what it holds and of the new tokens side
    by side, under one softmax. Nothing but scores is concatenated.

    Args:
        position_rows: P.
    """

    def __init__(self, graph: Graph, config: Any, position_rows: int):
        self.graph, self.config, self._position_rows = graph, config, position_rows
        self._layers = cache_shapes(config)
        self._heads, self._width = self._layers[0][0][1]
        self._new: list[str] = []

    def declare(self) -> tuple[str, str]:
        """Names all inputs and outputs of the graph, and gives those of token ids and positions."""
        graph, dtype = self.graph, TensorProto
        shapes = {"input_ids": ["B", "T"], "position_ids": ["B", self._position_rows, "T"]}
        shapes |= {"lengths": ["B"], "prefix_length": ["B"], "last": ["B", "M"]}
        for name, shape in shapes.items():
            graph.input(name, dtype.INT64, shape)
        for i, parts in enumerate(self._layers):
            for part, (heads, width) in parts:
                graph.input(f"past_{part}_{i}", dtype.FLOAT, ["B", heads, "C", width])
        graph.output("logits", dtype.FLOAT, ["B", "M", self.config.vocab_size])
        count = sum(map(len, self._layers))
        graph.output("new", dtype.FLOAT, [count, "B", self._heads, "T", self._width])
        return "input_ids", "position_ids"

    def prepare(self) -> None:
        """What all layers share."""
        graph = self.graph
        columns = graph.node("Shape", self._past(0)[0], start=2, end=3)
        tokens = graph.node("Shape", "input_ids", start=1, end=2)
        self._sizes = graph.node("Concat", columns, tokens, axis=0)
        self._bias = self._hidden(columns, tokens)

    def attend(self, layer: int, q: str, new: Sequence[str]) -> str:
        """The context [B, N, T, D] of queries [B, N, T, D].

        Args:
            new: what the new tokens add to the parts of the layer, [B, K, T, D] each.
        """
        graph, heads = self.graph, self.config.num_attention_heads
        self._new += [graph.node("Unsqueeze", x, self._ints(0)) for x in new]
        past = self._past(layer)
        q = graph.node("Mul", q, self._float(self.config.head_dim**-0.5))
        q = graph.node("Reshape", q, self._ints(0, self._heads, -1, self._width))  # [B, K, R·T, D]
        scores = graph.node("Concat", *(self._scores(q, keys) for keys in (past[0], new[0])), axis=-1)
        weights = graph.node("Softmax", graph.node("Add", scores, self._bias), axis=-1)
        of_past, of_new = graph.node("Split", weights, self._sizes, outputs=2, axis=-1)
        parts = [graph.node("MatMul", *pair) for pair in ((of_past, past[-1]), (of_new, new[-1]))]
        return graph.node("Reshape", graph.node("Add", *parts), self._ints(0, heads, -1, self._width))

    def finish(self) -> None:
        """Gives what the layers have added to the outputs."""
        self.graph.node("Concat", *self._new, outputs=["new"], axis=0)

    def _past(self, layer: int) -> list[str]:
        return [f"past_{part}_{layer}" for part, _ in self._layers[layer]]

    def _scores(self, q: str, keys: str) -> str:
        return self.graph.node("MatMul", q, self.graph.node("Transpose", keys, perm=[0, 1, 3, 2]))

    def _hidden(self, columns: str, tokens: str) -> str:
        """[B, 1, R·T, C + T], what is added to scores: the cache ends at `lengths`, a new token sees those before it.

        Args:
            columns, tokens: C and T, [1] each.
        """
        graph = self.graph
        of_past, of_new = (self._counted(size) for size in (columns, tokens))
        past = graph.node("Less", of_past, graph.node("Unsqueeze", "lengths", self._ints(1, 2, 3)))
        causal = graph.node("LessOrEqual", of_new, graph.node("Unsqueeze", of_new, self._ints(1)))
        prefix = graph.node("Less", of_new, graph.node("Unsqueeze", "prefix_length", self._ints(1, 2, 3)))
        rows = graph.node("Concat", self._ints(1, 1), tokens, self._ints(1), axis=0)
        parts = [graph.node("Expand", self._where(past), rows), self._where(graph.node("Or", causal, prefix))]
        bias = graph.node("Concat", *parts, axis=-1)
        shared = self.config.num_attention_heads // self._heads
        return graph.node("Concat", *[bias] * shared, axis=2) if shared > 1 else bias

    def _counted(self, size: str) -> str:
        """0, 1, 2 … below a number [1]."""
        zero, one = (self.graph.constant(np.int64(number)) for number in (0, 1))
        return self.graph.node("Range", zero, self.graph.node("Squeeze", size), one)

    def _where(self, seen: str) -> str:
        return self.graph.node("Where", seen, self._float(0), self._float(MASKED))

    def _ints(self, *numbers: int) -> str:
        return self.graph.constant(np.array(numbers, dtype="int64"))

    def _float(self, number: float) -> str:
        return self.graph.constant(np.float32(number))

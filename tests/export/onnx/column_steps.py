"""Runs a step graph that gives new keys and values back, as an engine would: prompts, then tokens of all rows."""

from pathlib import Path

import numpy as np
from onnx_step import positions_of

from glm.runtime.onnx_columns import OnnxColumnRuntime

CAPACITY = 24


def runtime_of(path: Path) -> OnnxColumnRuntime:
    return OnnxColumnRuntime(path, CAPACITY, threads=1)


def logits(path: Path, config, rows: list[list[int]], tokens: np.ndarray, capacity=CAPACITY) -> list[np.ndarray]:
    """[B, V] behind prompts of unequal length, and behind each further token of `tokens` [B, steps]."""
    scheme, runtime = positions_of(config), runtime_of(path)
    prefix = [scheme.prompt_prefix(row) for row in rows]
    cache = runtime.new_cache(len(rows), capacity)
    cache.store[:] = 7.0  # what no row has written yet must not matter
    found = [
        np.stack(
            [
                runtime.prefill(cache, slot, row, scheme.of(row, prefix[slot]), 0, prefix[slot])
                for slot, row in enumerate(rows)
            ]
        )
    ]
    lengths = np.array([len(row) for row in rows])
    for i in range(tokens.shape[1]):
        pos = [scheme.of([*row, *tokens[b]], prefix[b])[:, len(row) + i] for b, row in enumerate(rows)]
        found.append(runtime.decode(cache, tokens[:, i], np.stack(pos), lengths + i).copy())
    return found

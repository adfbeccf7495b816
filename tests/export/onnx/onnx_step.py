"""Runs a step graph in ONNX Runtime as an engine would: one cache that the graph reads and writes in place."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
import pytest

from glm.encoding.batches import BlockPositions, Positions, TextPositions
from glm.model.visibility import attention_bias

onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
STEPS = 5
MASK = 7  # what stands for the blank in the prompts of these tests


def positions_of(config) -> Positions:
    return TextPositions() if config.position_type.startswith("partial_rotary") else BlockPositions([MASK])


class Stepper:
    """A session and the cache of so many rows."""

    def __init__(self, path: Path, rows: int, capacity: int = 24):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        shape = self.inputs["past_key_0"].shape
        self.capacity = capacity
        # What no row has written yet must not matter.
        self.cache = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(
                np.full((rows, shape[1], capacity, shape[3]), np.nan, dtype="float32")
            )
            for name in self.inputs
            if name.startswith("past_")
        }

    def __call__(self, ids, pos, lengths, last, total, bias=None) -> np.ndarray:
        binding = self.session.io_binding()
        feeds = {
            "ids": np.asarray(ids, dtype="int64"),
            "pos": np.asarray(pos, dtype="int64"),
            "seqlens_k": np.asarray(lengths, dtype="int32") - 1,
            "total": np.array(total, dtype="int32"),
            "last": np.asarray(last, dtype="int64")[:, None],
        }
        if "bias" in self.inputs:
            feeds["bias"] = np.zeros((1, 1, len(ids[0]), total), dtype="float32") if bias is None else bias
        binding.bind_output("logits")
        for name in feeds.keys() & self.inputs.keys():
            binding.bind_cpu_input(name, feeds[name])
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past", "present"), value)
        self.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0][:, 0]


def texts(config, rows: Sequence[int] = (7, 4, 9)) -> tuple[list[list[int]], np.ndarray]:
    """Prompts of these lengths, and `STEPS` tokens that follow each: [B, STEPS]."""
    following = np.random.default_rng(5).integers(8, config.vocab_size, (len(rows), STEPS))
    return random_rows(config, [*rows]), following


def random_rows(config, lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Prompts of so many tokens, each with a blank."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(8, config.vocab_size, length).tolist() for length in lengths]
    for row in rows:
        row[len(row) // 2] = MASK
    return rows


def decode(path: Path, config, rows: list[list[int]], tokens: np.ndarray) -> list[np.ndarray]:
    """Logits [B, V] behind right-padded prompts, and behind each further token of `tokens` [B, steps]."""
    scheme, lengths = positions_of(config), np.array([len(row) for row in rows])
    prefix = [scheme.prompt_prefix(row) for row in rows]
    width = lengths.max()
    step = Stepper(path, len(rows))
    ids = [row + [0] * (width - len(row)) for row in rows]
    pos = [np.pad(scheme.of(row, p), [(0, 0), (0, width - len(row))]) for row, p in zip(rows, prefix, strict=True)]
    real = paddle.to_tensor((np.arange(width) < lengths[:, None]).astype("int64"))
    bias = attention_bias(real, paddle.to_tensor(prefix)).numpy()[:, None]
    logits = [step(ids, pos, lengths, lengths - 1, width, bias)]
    for i in range(tokens.shape[1]):
        pos = [scheme.of([*row, *tokens[b]], prefix[b])[:, len(row) + i, None] for b, row in enumerate(rows)]
        logits.append(step(tokens[:, i : i + 1], pos, lengths + i + 1, [0] * len(rows), step.capacity))
    return logits


def dynamic(model, rows: list[list[int]], tokens: np.ndarray) -> list[np.ndarray]:
    """The same of the Paddle model: each row alone, its whole text at once."""
    scheme = positions_of(model.config)
    found = []
    for row, more in zip(rows, tokens.tolist(), strict=True):
        prefix, text = scheme.prompt_prefix(row), [*row, *more]
        arguments = [[text], [[1] * len(text)], scheme.of(text, prefix)[None], [prefix]]
        logits = model(*(paddle.to_tensor(np.array(each, dtype="int64")) for each in arguments)).numpy()[0]
        found.append(logits[len(row) - 1 :])
    return list(np.stack(found, axis=1))

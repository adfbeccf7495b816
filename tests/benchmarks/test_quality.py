"""Scoring quantized weights: the numbers are those of the model's own loss."""

import numpy as np
import paddle
import pytest
from tiny_glm import tiny_model

from glm.encoding.batches import BlockPositions, TextPositions, training_batch
from glm.encoding.examples import TrainingExample
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import write_step_graph
from glm.model.parameters import as_numpy

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
from benchmarks.quality_score import BATCH, score
from glm.runtime.onnx_columns import OnnxColumnRuntime
from glm.runtime.onnx_step import OnnxStepRuntime

MASK = 7
KINDS = {"fp32": weights_of("fp32"), "int4": weights_of("int4"), "columns": weights_of("int8", opset=17)}
FAMILIES = {"glm": BlockPositions([MASK]), "glm4": TextPositions()}


def rows_of(family: str) -> list[TrainingExample]:
    """More than a batch, of unequal lengths; of a conversation's answer a part in the middle is not trained."""
    draw, rows = np.random.default_rng(3), []
    for number in range(BATCH + 3):
        source, target = 3 + number % 4, 1 + number % 5
        ids = draw.integers(8, 60, source + target).tolist()
        trained = [False] * source + [True] * target
        if family == "glm":
            ids[1] = MASK
            rows.append(TrainingExample(ids, trained, prefix_length=source - 1))
        else:
            if target > 2:
                trained[source + 1] = False
            rows.append(TrainingExample(ids, trained))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_perplexity_is_that_of_the_loss(tmp_path, family):
    model = tiny_model(seed=1, spread=0.2, family=family)
    rows, positions = rows_of(family), FAMILIES[family]
    runtimes = {}
    for kind, stored in KINDS.items():
        weights = ((name, as_numpy(parameter)) for name, parameter in model.named_parameters())
        write_step_graph(model.config, weights, stored, tmp_path / kind)
        opened = OnnxColumnRuntime if stored.operators.standard else OnnxStepRuntime
        runtimes[kind] = opened(tmp_path / f"{kind}.onnx", model.config.max_position_embeddings, threads=1)
    found = score({**runtimes, "again": runtimes["fp32"]}, rows, positions, "test")
    batch = training_batch(rows, positions, 0)
    with paddle.no_grad():
        loss = float(model(**{name: paddle.to_tensor(array) for name, array in batch.items()}))
    exact = found["fp32"]
    assert exact.perplexity == pytest.approx(np.exp(loss), rel=1e-4)
    assert (exact.rows, exact.tokens) == (len(rows), sum(row.trained_tokens for row in rows))
    assert (exact.agreement, exact.divergence) == (1.0, 0.0)
    assert (found["again"].agreement, found["again"].divergence) == (1.0, 0.0)
    assert found["int4"].agreement < 1.0
    assert found["int4"].divergence > 1e-3
    assert 1e-7 < found["columns"].divergence < found["int4"].divergence

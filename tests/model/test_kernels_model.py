"""A model that a CPU's own kernels compute is the same model: losses and gradients of all generations."""

import numpy as np
import paddle
import pytest

from glm import kernels
from glm.kernels import library
from glm.model.attention_choice import attention_class
from glm.model.block_attention import BlockAttention
from glm.model.kernel_attention import KernelAttention
from glm.model.lora import add_lora
from glm.model.visibility import derived_rows
from tests.model.test_visibility import DOCUMENTS, WIDTH, document_batch, family_model, packed_batch, trained

pytestmark = pytest.mark.skipif(bool(kernels.fault()), reason=f"no kernels here: {kernels.fault()}")
FAMILIES = ["glm", "chatglm", "glm4-remote", "glm4-0414", "chatglm2", "glm4-moe"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
def test_a_model_trains_alike(monkeypatch, family, recompute):
    """Packed rows with prefixes; that kernels run is counted, and without them none does."""
    model = family_model(family)
    model.model.enable_recompute = recompute
    packed = [packed_batch(document_batch(model, documents), WIDTH) for documents in (DOCUMENTS, DOCUMENTS[::-1])]
    batch = [{name: np.concatenate([rows[name] for rows in packed]) for name in packed[0]}]
    calls, call = [], KernelAttention.__call__
    monkeypatch.setattr(KernelAttention, "__call__", lambda self, *qkv: calls.append(1) or call(self, *qkv))
    losses, gradients = trained(model, batch)
    assert len(calls) == 2 * (1 + recompute)  # layers
    monkeypatch.setattr(library, "_loaded", lambda: (None, "a test switches them off"))
    wanted_losses, wanted = trained(model, batch)
    assert len(calls) == 2 * (1 + recompute)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_train_alike(monkeypatch, family):
    """Their gradients pass norms and biases that are frozen."""
    lora = add_lora(family_model(family), r=4, targets="all")
    batch = packed_batch(document_batch(lora.model, DOCUMENTS), WIDTH)
    _, gradients = trained(lora, [batch])
    monkeypatch.setattr(library, "_loaded", lambda: (None, "a test switches them off"))
    _, wanted = trained(lora, [batch])
    assert any("lora_B" in name for name in wanted)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-4, atol=2e-5, err_msg=name)


def test_what_takes_the_kernels(monkeypatch):
    """float32 on a CPU; nothing in a graph."""
    rows = derived_rows(paddle.ones([1, 1100], "int64"), paddle.to_tensor([0]))
    x = paddle.ones([2])
    assert attention_class("float32", 64, 1, rows) is KernelAttention
    assert attention_class("bfloat16", 64, 1, rows) is BlockAttention
    assert kernels.serves(x, None)
    assert not kernels.serves(x, x.astype("float64"))
    monkeypatch.setattr(paddle, "in_dynamic_mode", lambda: False)
    assert not kernels.serves(x)

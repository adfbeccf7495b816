"""Adapters beyond those of attention: what they are, and what training them needs, as Paddle reports it."""

from dataclasses import replace

import pytest

from glm import GLMConfig, GLMForCausalLM
from glm.config.shapes import LORA_TARGETS, lora_shapes
from glm.errors import UsageError
from glm.memory import estimate
from glm.model.lora import add_lora
from tests.memory.measurement import NO_DROPOUT, RUN, TOLERANCE, config_of, measure_training, off

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("without_kernels")]  # the estimate is of all devices

SHALLOW = {"num_hidden_layers": 3, "vocab_size": 2001}
DENSE = {
    "GLM": (config_of(), 32),
    "wide MLP": (config_of(intermediate_size=1024, num_hidden_layers=2), 8),
    "no dropout": (config_of(**NO_DROPOUT), 8),
    "GLM-4": (GLMConfig.preset("glm-4-9b-tiny", **SHALLOW), 32),
    "ChatGLM": (GLMConfig.preset("chatglm-6b-tiny", **SHALLOW), 8),
}


@pytest.mark.parametrize("name", ["glm-4.5-tiny", "glm-4.7-flash-tiny", "glm-4-9b-tiny"])
@pytest.mark.parametrize("targets", LORA_TARGETS)
def test_adapters_are_those_of_a_real_model(name, targets):
    config = GLMConfig.preset(name)
    if targets == "experts" and not config.n_routed_experts:
        pytest.skip("it has no experts")
    lora = add_lora(GLMForCausalLM(config), 4, targets=targets)
    real = {name.split("model.", 1)[1]: tuple(p.shape) for name, p in lora.named_parameters() if ".lora_" in name}
    assert lora_shapes(config, 4, targets) == real


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
@pytest.mark.parametrize(("config", "r"), DENSE.values(), ids=DENSE)
def test_adapters_of_all_layers_need_what_was_computed(config, r, recompute):
    run = replace(RUN, train="lora", lora_targets="all", r=r, recompute=recompute)
    real, computed = measure_training(config, run), estimate(config, run)
    assert computed.weights == real.weights
    assert off(computed.standing, real.standing) < 0.02
    assert off(computed.training, real.peak) < TOLERANCE
    assert off(computed.training - computed.standing, real.peak - real.standing) < TOLERANCE


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
@pytest.mark.parametrize("name", ["glm-4.5-tiny", "glm-4.7-flash-tiny"])
def test_adapters_of_experts_stand_as_computed(name, recompute):
    """And the peak of GLM-4.5's; of latents more is counted than there is, with any adapters."""
    config, run = GLMConfig.preset(name), replace(RUN, train="lora", lora_targets="experts", recompute=recompute)
    real, computed = measure_training(config, run), estimate(config, run)
    sparse = sum(map(config.is_sparse, range(config.num_hidden_layers)))
    assert computed.weights == real.weights + 4 * sparse * config.n_routed_experts  # a router's bias is no parameter
    assert off(computed.standing, real.standing) < 0.02
    assert off(estimate(config, replace(run, lora_targets="all")).standing, real.standing) > 0.1
    if not config.kv_lora_rank:
        assert off(computed.training, real.peak) < TOLERANCE


def test_adapters_of_experts_where_there_are_none():
    with pytest.raises(UsageError, match="lora_targets is experts, and this model has none: choose all"):
        estimate(config_of(), replace(RUN, train="lora", lora_targets="experts"))

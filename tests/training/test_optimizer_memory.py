"""What is in memory while the states of a rank's experts are read."""

import tracemalloc

import numpy as np

from glm import GLMConfig
from glm.checkpoint.expert_stacks import expert_name
from glm.checkpoint.write import write_pdparams
from glm.training.optimizer_state import file_name, load_optimizer

LAYERS, EXPERTS, NUMBERS = 8, range(8), 64 * 256


class Optimizer:
    """Takes states, and keeps them."""

    def set_state_dict(self, state) -> None:
        self.state = state


def test_states_of_experts_are_joined_one_weight_at_a_time(tmp_path):
    """Two ranks' files, of experts one by one, for a rank that has them all: of 8 MB of states one or two at once."""
    names = {f"p{i}": f"model.layers.{i}.mlp.experts.up_proj.weight" for i in range(LAYERS)}
    for rank in range(2):
        state = {"degrees": np.array([1, 2])}
        for weight in names.values():
            for expert in EXPERTS[4 * rank : 4 * rank + 4]:
                for moment in (1, 2):
                    array = np.full([64, 256], expert + 100 * moment, "float32")
                    state[f"{expert_name(weight, expert)}.moment{moment}_0"] = array
        write_pdparams(tmp_path / file_name(0, 1, rank, 2), state)
    optimizer, config = Optimizer(), GLMConfig.preset("glm-4.5-tiny")
    assert config.own_experts == EXPERTS
    tracemalloc.start()
    try:
        load_optimizer(tmp_path, optimizer, names, config)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one = 4 * len(EXPERTS) * NUMBERS
    assert one < peak < 3 * one < 2 * LAYERS * one
    found = optimizer.state["p3_moment2_0"].numpy()
    assert found.shape == (8, 64, 256) and (found == np.arange(200, 208)[:, None, None]).all()

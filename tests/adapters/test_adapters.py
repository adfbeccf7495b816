"""Adapters of the real PEFT, read and written: golden files, and the package itself where it is there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from adapter_cases import BASES, READ, WRITTEN, directory_name
from adapter_side import (
    TOLERANCE,
    error_of,
    layer_outputs,
    live_results,
    opened,
    results_of,
    streamed_state,
    written_adapter,
)
from peft_side import require_peft, run_peft
from safetensors.numpy import load_file

FIXTURES = Path(__file__).parent / "fixtures"


def base_of(name: str) -> Path:
    return FIXTURES / "bases" / name


def golden(kind: str, case: str) -> tuple[Path, dict[str, np.ndarray]]:
    directory = FIXTURES / kind / directory_name(case)
    return directory, load_file(directory / "results.safetensors")


@pytest.mark.parametrize("case", READ)
def test_an_adapter_of_peft_in_a_live_model(case):
    base = READ[case][0]
    adapter, wanted = golden("read", case)
    assert error_of(live_results(base, base_of(base), adapter), wanted) < TOLERANCE


@pytest.mark.parametrize("case", READ)
def test_an_adapter_of_peft_streamed(case):
    """The weights that an export gets are those of the live model."""
    base = READ[case][0]
    adapter, wanted = golden("read", case)
    state, config = streamed_state(base_of(base), adapter)
    if "logits" in wanted:
        model = opened(base_of(base))
        from glm.lora import merge_adapter

        merge_adapter(model, adapter)
        live = {name: parameter.numpy() for name, parameter in model.state_dict().items()}
        assert state.keys() == live.keys()
        assert config.tie_word_embeddings == model.config.tie_word_embeddings
        assert all(np.array_equal(state[name], array) for name, array in live.items())
    else:
        assert error_of(layer_outputs(state, config), wanted) < TOLERANCE

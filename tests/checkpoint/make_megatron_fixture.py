"""Writes tests/checkpoint/megatron with torch itself, as Megatron-LM saves: TP 2 × PP 2, Transformer Engine's layers.

    python tests/checkpoint/make_megatron_fixture.py

Beside the weights stands what a training run leaves there: enums of its own modules, dtypes, functions, the optimizer's
and the generators' states. It needs torch (requirements-parity.txt) and ml_dtypes.
"""

import enum
import io
import random
import signal
import sys
import types
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parity")]

from megatron_samples import TRACKER, args, hf_weights, parts, rank_tensors, transformer_engine  # noqa: E402

FIXTURE = HERE / "megatron"
DEGREE, CUTS = 2, [[0, 1, 2], [3]]


def of_megatron(kind: type) -> type:
    """A class of a module that no reader has."""
    module = sys.modules.setdefault("megatron.core.enums", types.ModuleType("megatron.core.enums"))
    kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
    setattr(module, kind.__name__, kind)
    return kind


@of_megatron
class AttnBackend(enum.Enum):
    auto = 5


@of_megatron
class Scheduler:
    def __init__(self):
        self.steps, self.history = {1, 2}, [0.5]


def main() -> None:
    said = args(DEGREE, len(CUTS), num_layer_list="3,1", iteration=5) | {
        "params_dtype": torch.float32,
        "attention_backend": AttnBackend.auto,
        "exit_signal": signal.SIGTERM,
        "activation_func": torch.nn.functional.silu,
        "rope_scaling_factor": 1.0,
        "data_path": ["corpus_text_document"],
        "device": torch.device("cpu"),
    }
    for rank in range(DEGREE):
        held = parts(rank_tensors(hf_weights(post_norms=False), rank, DEGREE), CUTS)
        for stage, tensors in enumerate(held):
            folder = FIXTURE / "iter_0000005" / f"mp_rank_{rank:02d}_{stage:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(content(said, transformer_engine(tensors)), folder / "model_optim_rng.pt")
    (FIXTURE / TRACKER).write_text("5")


def content(said: dict, tensors: dict[str, np.ndarray]) -> dict:
    model = {name: torch.nn.Parameter(torch.from_numpy(array)) for name, array in tensors.items()}
    model["decoder.layers.0.self_attention.linear_qkv._extra_state"] = io.BytesIO(b"fp8")
    moments = {"step": 5, "exp_avg": torch.zeros(4, dtype=torch.bfloat16), "scheduler": Scheduler()}
    return {
        "args": Namespace(**said),
        "checkpoint_version": 3.0,
        "iteration": 5,
        "model": model,
        "optimizer": {"optimizer": {"state": {0: moments}, "param_groups": [{"lr": 1e-5, "params": [0]}]}},
        "opt_param_scheduler": {"max_lr": 1e-5, "num_steps": 5},
        "rng_state": [
            {
                "random_rng_state": random.Random(0).getstate()[:1],
                "np_rng_state": ("MT19937", np.arange(3, dtype=np.uint32), 0, 0, 0.0),
                "torch_rng_state": torch.zeros(8, dtype=torch.uint8),
            }
        ],
    }


if __name__ == "__main__":
    main()

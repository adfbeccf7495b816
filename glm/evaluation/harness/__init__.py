"""lm-evaluation-harness (EleutherAI, lm_eval 0.4.13) over models and exports of this project.

An optional extra: pip install -r requirements-harness.txt. `HarnessLM` is what `lm_eval.simple_evaluate` takes;
`python -m glm.evaluation.harness` is a command around both.
"""

from importlib import import_module

__all__ = ["HarnessLM"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.lm"), name)  # imports lm_eval

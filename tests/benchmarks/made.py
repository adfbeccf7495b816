"""Results as workers give them, for tests of what is made of them."""

from benchmarks.plan import Measured, Plan

WORK = {"parameters": 1200, "block_parameters": 900, "head_parameters": 100}


def generation(first: float, step: float, count: int = 64, token: int = 100, rows: int = 1) -> dict:
    """A run whose first token takes `first` seconds and each other one `step`."""
    marks = [[number + 1, first + step * number] for number in range(count)]
    return {"tokens": [list(range(token, token + count))] * rows, "marks": marks}


def measured_decode(ours: float = 0.01, transformers: float = 0.05, llama: float = 0.02, **changes) -> tuple:
    """A plan with one row, and its results; `changes` replace the runs of a side, `_` for `-`."""
    plan = Plan(("decode-fp32",), runs=2)
    runs = {
        "onnx-fp32": [generation(0.1, ours), generation(0.2, ours)],
        "transformers": [generation(0.5, transformers)] * 2,
        "llama-f32": [generation(0.1, llama)] * 2,
        "machine": [{"read": 400_000.0, "matmul": 1e12}, {"read": 480_000.0, "matmul": 1e12}],
        "loop": [generation(0.1, 0.03)] * 2,
        "eager": [generation(0.1, 0.04)] * 2,
    }
    runs |= {side.replace("_", "-"): found for side, found in changes.items()}
    found = Measured(prepared={"glm4": dict(WORK)})
    found.opened["glm4", "onnx-fp32"] = {"versions": {"onnxruntime": "1.0"}, "settings": {"MKL_X": "1"}}
    found.runs = {("glm4", "decode", side): list(results) for side, results in runs.items()}
    return plan, found

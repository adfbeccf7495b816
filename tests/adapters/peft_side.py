"""What the real PEFT does, run in the environment that has it: torch, transformers and peft (requirements-parity.txt).

    python tests/adapters/peft_side.py JOBS.json

A job has a base model's directory, an adapter's directory, a file for the results, and the settings of LoraConfig where
the adapter is to be made first. Results: logits of the transformers model, or, for models with remote code, what each
layer of a tree of modules with the published names and shapes gives. Imported, the module runs it as a process.
"""

import json
import subprocess
import sys
from pathlib import Path

try:
    import pytest
except ImportError:  # in the environment that has PEFT
    pytest = None

ROOT = Path(__file__).resolve().parents[2]
PYTHON = next(
    (ROOT / name / "bin" / "python" for name in (".venv-bench", ".venv-parity") if (ROOT / name).is_dir()), None
)


def has_peft() -> bool:
    if PYTHON is None:
        return False
    return subprocess.run([str(PYTHON), "-c", "import peft, transformers"], capture_output=True).returncode == 0


def require_peft() -> None:
    """Skips a test where no environment has the real package."""
    if not has_peft():
        pytest.skip("no .venv-bench or .venv-parity with torch, transformers and peft (requirements-parity.txt)")


def run_peft(jobs: list[dict], folder: Path) -> None:
    """Runs the jobs in one process; what a job raises ends all."""
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs, default=str), encoding="utf-8")
    done = subprocess.run([str(PYTHON), __file__, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def ids_of(vocab_size: int):
    """Token ids [2, 9] that every side feeds; all tokens come up that cases train alone."""
    import numpy as np

    ids = np.random.default_rng(0).integers(0, vocab_size, (2, 9))
    ids[0, :5] = [3, 11, 5, 1, 39]
    return ids


def inputs_of(size: int):
    """Rows [4, size] that go through a layer."""
    import numpy as np

    return np.random.default_rng(size).standard_normal((4, size)).astype("float32")


def main(path: str) -> None:
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    for job in json.loads(Path(path).read_text("utf-8")):
        if job.get("settings") is not None:
            _make(job)
        _results(job)


def _make(job: dict) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"r": 2, "lora_alpha": 3} | job["settings"]
    binary, seed = settings.pop("bin", False), job["seed"]
    model = get_peft_model(_base(job["base"]), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or ".lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            if "magnitude" in name:
                noise = parameter.data * noise
            parameter.data += noise
    model.save_pretrained(job["adapter"], safe_serialization=not binary)
    (Path(job["adapter"]) / "README.md").unlink(missing_ok=True)
    path = Path(job["adapter"]) / "adapter_config.json"  # it names the base model's directory
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}, indent=2) + "\n")


def _results(job: dict) -> None:
    import torch
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
    from safetensors.torch import save_file

    base = _base(job["base"])
    model = PeftModel.from_pretrained(base, job["adapter"]).eval()
    again = set_peft_model_state_dict(model, load_peft_weights(job["adapter"], device="cpu"))
    unexpected = list(again.unexpected_keys)
    assert not unexpected, f"PEFT drops {unexpected[:3]} ({len(unexpected)}) of {job['adapter']}"
    lost = [name for name in again.missing_keys if ".lora_" in name]
    assert not lost, f"PEFT misses {lost[:3]} ({len(lost)}) in {job['adapter']}"
    with torch.no_grad():
        if hasattr(base, "lm_head") and hasattr(base, "config"):
            found = {"logits": model(input_ids=torch.from_numpy(ids_of(base.config.vocab_size))).logits}
        else:
            found = {name: _output(name, model.base_model.model.get_submodule(name)) for name in base.names}
    save_file({name: array.contiguous() for name, array in found.items()}, job["results"])


def _output(name: str, module):
    import torch

    weight = module.weight
    if "embeddings" in name:
        return module(torch.arange(len(weight)))
    return module(torch.from_numpy(inputs_of(weight.shape[-1])))


def _base(directory: str):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    config = json.loads((Path(directory) / "config.json").read_text("utf-8"))
    if config["model_type"] in ("glm", "glm4") and "num_layers" not in config:
        return AutoModelForCausalLM.from_pretrained(directory, dtype="float32").eval()
    return _tree(load_file(Path(directory) / "model.safetensors"))


def _tree(state: dict):
    """Modules of the names and shapes of a state dict."""
    import torch

    class Scale(torch.nn.Module):
        def __init__(self, width: int, bias: bool):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(width))
            self.bias = torch.nn.Parameter(torch.zeros(width)) if bias else None

        def forward(self, x):
            return x * self.weight + (0 if self.bias is None else self.bias)

    root, names = torch.nn.Module(), []
    for name in sorted(state):
        if not name.endswith(".weight"):
            continue
        path, shape = name.removesuffix(".weight"), state[name].shape
        bias = f"{path}.bias" in state
        if len(shape) == 1:
            module = Scale(shape[0], bias)
        elif "embeddings" in path:
            module = torch.nn.Embedding(*shape)
        else:
            module = torch.nn.Linear(shape[1], shape[0], bias=bias)
        parent = root
        for part in path.split(".")[:-1]:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.add_module(path.rpartition(".")[2], module)
        names.append(path)
    root.load_state_dict(state)
    root.names = names
    root.prepare_inputs_for_generation = None  # PEFT keeps it
    return root.eval()


if __name__ == "__main__":
    main(sys.argv[1])

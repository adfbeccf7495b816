"""The project's side of the comparison with PEFT: base models, what a merged adapter gives, adapters that it writes."""

from pathlib import Path

import numpy as np
import paddle
from adapter_cases import BASES, OF_TRANSFORMERS
from peft_side import ids_of, inputs_of
from tiny_glm import scatter

from glm import GLMConfig, GLMForCausalLM
from glm.api.loading import stream_weights
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.checkpoint.names import from_memory
from glm.model.lora import add_lora, load_lora, merge_lora

TOLERANCE = 2e-5
Arrays = dict[str, np.ndarray]


def write_base(base: str, directory: Path, scratch: Path, seed: int = 1) -> None:
    """A tiny random model in the form in which its family is published."""
    model = GLMForCausalLM(GLMConfig(**BASES[base]))
    scatter(model, seed=seed, spread=0.4)
    model.save_pretrained(scratch)
    convert_checkpoint(Conversion(scratch, directory, "remote" if base == "glm4-remote" else "hf"))


def opened(directory: Path) -> GLMForCausalLM:
    model = GLMForCausalLM.from_pretrained(directory)
    model.eval()
    return model


def live_results(base: str, directory: Path, adapter: Path) -> Arrays:
    """With the adapter loaded into a model: beside the weights where it can be, then merged."""
    lora = load_lora(opened(directory), adapter)
    lora.eval()
    beside = logits_of(lora)
    merged = merge_lora(lora)
    assert error_of({"": logits_of(merged)}, {"": beside}) < TOLERANCE
    return results_of(base, merged)


def results_of(base: str, model: GLMForCausalLM) -> Arrays:
    if base in OF_TRANSFORMERS:
        return {"logits": logits_of(model)}
    return layer_outputs({name: parameter.numpy() for name, parameter in model.state_dict().items()}, model.config)


def streamed_state(directory: Path, adapter: Path) -> tuple[Arrays, object]:
    config, tensors = stream_weights(str(directory), adapter)
    return {name: np.asarray(array, "float32") for name, array in tensors}, config


def logits_of(model) -> np.ndarray:
    """[2, 9, V] of an unpadded batch that sees only what stands before."""
    vocab_size = getattr(model, "model", model).config.vocab_size
    ids = ids_of(vocab_size)
    batch, length = ids.shape
    rows = {"learned_2d": 2, "rotary_2d": 2}.get(getattr(model, "model", model).config.position_type, 1)
    positions = np.zeros((batch, rows, length), "int64")
    positions[:, 0] = np.arange(length)
    tensors = (ids, np.ones((batch, length), "int64"), positions, np.zeros(batch, "int64"))
    return model(*map(paddle.to_tensor, tensors)).numpy()


def layer_outputs(state: Arrays, config) -> Arrays:
    """What every published layer gives for the inputs of `inputs_of`."""
    stored = from_memory(state, config, torch_layout=True)
    found = {}
    for name, weight in stored.items():
        path, kind = name.rpartition(".")[::2]
        if kind != "weight":
            continue
        bias = stored.get(f"{path}.bias", 0)
        x = inputs_of(weight.shape[-1])
        found[path] = x * weight + bias if weight.ndim == 1 else weight if "embeddings" in path else x @ weight.T + bias
    return found


def written_adapter(base: str, targets: str, directory: Path, adapter: Path, seed: int = 5) -> GLMForCausalLM:
    """An adapter as training leaves it, in PEFT's files; returns the model with it."""
    lora = add_lora(opened(directory), r=2, alpha=3, targets=targets)
    draw = np.random.default_rng(seed)
    for name, parameter in sorted(lora.model.state_dict().items()):
        if ".lora_" in name:
            parameter.set_value(draw.standard_normal(parameter.shape).astype("float32") * 0.3)
    lora.eval()
    lora.save_pretrained(adapter, peft=True)
    return merge_lora(lora)


def error_of(found: Arrays, wanted: Arrays) -> float:
    """The worst norm of a difference over the norm of the reference."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    return max(float(np.linalg.norm(found[n] - wanted[n]) / np.linalg.norm(wanted[n])) for n in wanted)

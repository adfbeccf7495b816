"""Files of LoRA adapters, in either format, as matrices by in-memory name; merging them into weights. Needs no Paddle.

Adapters of fused query-key-value projections, which the published GLM checkpoints have, are cut into three adapters
that share their first matrix: the same function. So are those of fused gates.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from glm.checkpoint.names import table_of
from glm.checkpoint.unpickle import load_pdparams
from glm.config_file import ADAPTER_CONFIGS
from glm.errors import GLMError
from glm.foreign_files import require_real
from glm.memory.weights import parameter_shapes
from glm.plan import PLAN

PADDLE_CONFIG, PEFT_CONFIG = ADAPTER_CONFIGS
PADDLE_WEIGHTS, PEFT_WEIGHTS = "lora_model_state.pdparams", "adapter_model.safetensors"
Adapter = dict[str, np.ndarray]  # "model.layers.0.self_attn.q_proj.lora_A" → [in, r]; lora_B [r, out]
# Settings of either format under which the same matrices stand for another function.
_OTHER_FUNCTIONS = (
    *("use_rslora", "use_dora", "alpha_pattern", "rank_pattern"),
    *("rslora", "pissa", "use_mora", "lora_use_mixer"),
)
_LINEAR = frozenset(PLAN) - {"embed_tokens"}


def read_adapter(directory: Path, config: Any) -> tuple[dict, Adapter]:
    """An adapter directory as its settings (r, alpha, dropout) and matrices in memory names, for a model like this."""
    if (directory / PADDLE_CONFIG).is_file():
        raw = _read_json(directory / PADDLE_CONFIG)
        state = load_pdparams(directory / PADDLE_WEIGHTS)
    elif (directory / PEFT_CONFIG).is_file():
        raw = _read_json(directory / PEFT_CONFIG)
        state = _read_peft(directory / PEFT_WEIGHTS)
    else:
        raise GLMError(f"{directory} holds no LoRA adapter: neither {PADDLE_CONFIG} nor {PEFT_CONFIG} is there")
    odd = next((field for field in _OTHER_FUNCTIONS if raw.get(field)), None)
    if odd:
        raise GLMError(f"{directory}: the adapter sets {odd}; only plain LoRA with one scaling alpha / r is supported")
    settings = {"r": raw["r"], "alpha": raw["lora_alpha"], "dropout": raw.get("lora_dropout", 0.0)}
    return settings, _split_fused(state, config)


def merged(tensors: Iterable[tuple[str, np.ndarray]], directory: Path, config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Weights with an adapter's product added where it has one, in float32; the others as they come.

    Args:
        tensors: names and arrays of a whole model, in any order.
        directory: of the adapter, which is read before the first weight.
        config: of the model.
    Raises:
        GLMError: as `read_adapter`, or an adapter of another model.
    """
    settings, adapter = read_adapter(directory, config)
    modules = {name.rpartition(".")[0].rpartition(".")[2] for name in adapter}
    check_adapter(adapter, _adapter_shapes(config, modules, settings["r"]), directory)
    return _merged(tensors, adapter, np.float32(settings["alpha"] / settings["r"]))


def _merged(
    tensors: Iterable[tuple[str, np.ndarray]], adapter: Adapter, scaling: np.float32
) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in tensors:
        layer, _, part = name.rpartition(".")
        if part == "weight" and f"{layer}.lora_A" in adapter:
            a, b = (adapter[f"{layer}.lora_{side}"].astype("float32") for side in "AB")
            array = array.astype("float32") + (a @ b) * scaling
        yield name, array
        del array  # before the next one is read


def _adapter_shapes(config: Any, modules: set[str], r: int) -> dict[str, tuple[int, int]]:
    """What an adapter of these layers has: lora_A [in, r] and lora_B [r, out] of each."""
    shapes = {}
    for name, shape in parameter_shapes(config).items():
        layer, _, part = name.rpartition(".")
        module = layer.rpartition(".")[2]
        if part == "weight" and module in modules & _LINEAR:
            shapes |= {f"{layer}.lora_A": (shape[0], r), f"{layer}.lora_B": (r, shape[1])}
    return shapes


def adapter_dtype(directory: Path) -> str | None:
    """The dtype a PaddleNLP adapter was trained in, None where it does not say."""
    path = directory / PADDLE_CONFIG
    return _read_json(path).get("dtype") if path.is_file() else None


def check_adapter(adapter: Adapter, expected: Mapping[str, Sequence[int]], directory: Path) -> None:
    """Raises GLMError where names or shapes are not those that the model expects of it."""
    odd = sorted(set(adapter) ^ set(expected))
    if odd:
        side = "lacks" if odd[0] in expected else "has, and the model lacks,"
        raise GLMError(f"{directory} {side} {odd[0]} ({len(odd)} such): the adapter belongs to another model")
    for name, shape in expected.items():
        if list(shape) != list(adapter[name].shape):
            raise GLMError(
                f"{directory}: {name} is {list(adapter[name].shape)} and the model needs {list(shape)}: "
                "the adapter belongs to another model"
            )


def _split_fused(state: Adapter, config: Any) -> Adapter:
    """Adapters of the layers of a checkpoint → of those in memory: what shares a stored matrix shares lora_A.

    Raises:
        GLMError: a fused lora_B that cannot be cut as the model's weights are.
    """
    rows = {row.stored: row for row in table_of(config).expand(config, prefix="") if row.linear}
    split: Adapter = {}
    for name, array in state.items():
        layer, _, part = name.rpartition(".")
        # PaddleNLP and Hugging Face put the name of their base model in front.
        row = next(
            (rows[stored] for stored in (f"{layer}.weight", f"{layer.partition('.')[2]}.weight") if stored in rows),
            None,
        )
        if row is None:
            split[name] = array
            continue
        try:
            pieces = [array] * len(row.memory) if part == "lora_A" else row.packing.unpack(array, config)
        except ValueError as error:
            raise GLMError(f"{name} {list(array.shape)} is of another model: {error}") from None
        split |= {f"{memory.removesuffix('.weight')}.{part}": x for memory, x in zip(row.memory, pieces, strict=True)}
    return split


def _read_peft(path: Path) -> Adapter:
    require_real(path)
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise GLMError(f"{path} is missing beside its {PEFT_CONFIG}") from None
    except SafetensorError as error:
        raise GLMError(f"{path} is not a whole safetensors file: {error}") from None
    prefix, suffix = "base_model.model.", ".weight"
    return {name.removeprefix(prefix).removesuffix(suffix): array.T for name, array in arrays.items()}


def _read_json(path: Path) -> dict:
    require_real(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GLMError(f"{path} is not valid JSON: {error}") from None
    missing = [name for name in ("r", "lora_alpha") if name not in raw]
    if missing:
        raise GLMError(f"{path} lacks '{missing[0]}'")
    return raw

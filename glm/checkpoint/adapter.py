"""Files of LoRA adapters, in any format, as changes of the weights in memory. Needs no Paddle.

Adapters of fused projections, which the published GLM checkpoints have, are cut into adapters that share their first
matrix: the same function. So are those of fused gates. glm/checkpoint/adapter_settings.py reads the settings,
glm/checkpoint/adapter_merge.py applies the changes.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy the bfloat16 that safetensors asks it for)
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from glm.checkpoint.adapter_experts import with_single_experts
from glm.checkpoint.adapter_names import EMBEDDING, HEAD, Layout, find_layout
from glm.checkpoint.adapter_settings import MLX, PADDLE, PEFT, Settings, read_settings
from glm.checkpoint.expert_stacks import single_shapes, stack_name
from glm.checkpoint.names import TensorEntry
from glm.config.shapes import parameter_shapes
from glm.errors import GLMError
from glm.files.foreign_files import require_real
from glm.pickles.torch_file import load_torch_bin
from glm.pickles.unpickle import load_pdparams

PADDLE_WEIGHTS, PEFT_WEIGHTS = "lora_model_state.pdparams", "adapter_model.safetensors"
_TORCH_WEIGHTS, _MLX_WEIGHTS = "adapter_model.bin", "adapters.safetensors"
_NAMES = {PADDLE: (PADDLE_WEIGHTS,), PEFT: (PEFT_WEIGHTS, _TORCH_WEIGHTS), MLX: (_MLX_WEIGHTS,)}
Adapter = dict[str, np.ndarray]  # "model.layers.0.self_attn.q_proj.lora_A" → [in, r]; lora_B [r, out]
FOREIGN = "the adapter belongs to another model"

# A name of a file is MODULE.PART[.NAME OF THE ADAPTER][.weight|.bias], or of a whole weight.
_PARTS = {
    "lora_A": "lora_A",
    "lora_B": "lora_B",
    "lora_embedding_A": "lora_A",
    "lora_embedding_B": "lora_B",
    "lora_a": "lora_A",
    "lora_b": "lora_B",
    "lora_magnitude_vector": "magnitude",
    "token_adapter.trainable_tokens_delta": "tokens",
}
_SAID_BY = {"magnitude": ("lora_magnitude_vector", "use_dora"), "lora_B.bias": ("lora_B.bias", "lora_bias")}
_ADAPTER_NAME = r"(?:\.(?!(?:weight|bias)$)[^.]+)?"
_OF_AN_ADAPTER = re.compile(
    rf"(?P<module>.+?)\.(?P<part>{'|'.join(map(re.escape, _PARTS))}){_ADAPTER_NAME}(?P<end>\.weight|\.bias)?"
)
# Of PEFT, of distributed training and of torch.compile, which may have wrapped a model more than once.
_FRONT = re.compile(r"(?:base_model\.model\.|module\.|_orig_mod\.)+")
_WRAPPERS = re.compile(rf"\.(?:base_layer|modules_to_save{_ADAPTER_NAME})(?=\.(?:weight|bias)$)")


@dataclass
class Change:
    """What an adapter does to one weight or bias in memory; matrices lie as Paddle has them.

    Attributes:
        weight: stands in the place of the model's own.
        lora_A, lora_B, scaling: lora_A [in, r] · lora_B [r, out] · scaling is added; of an embedding [V, r] and [r, H].
        magnitude: the norms [out] that the columns of the sum are brought to (DoRA).
        tokens, rows: what stands for these tokens in an embedding [V, H] or a head [H, V].
        added: to a bias.
        init, r, fused: what PEFT takes out of the stored weight first (`pissa`, `olora`), of that rank, and the row
            of the stored weight, which several weights in memory may share.
    """

    weight: np.ndarray | None = None
    lora_A: np.ndarray | None = None
    lora_B: np.ndarray | None = None
    scaling: float = 1.0
    magnitude: np.ndarray | None = None
    tokens: Sequence[int] = ()
    rows: np.ndarray | None = None  # [tokens, H]
    added: np.ndarray | None = None
    init: str = ""
    r: int = 0
    fused: TensorEntry | None = None


@dataclass
class LoadedAdapter:
    """An adapter directory.

    Attributes:
        settings: of its configuration.
        changes: of the weights and biases in memory, by name.
        unties: a head that was the word embedding becomes a weight of its own.
    """

    directory: Path
    settings: Settings
    changes: dict[str, Change] = field(default_factory=dict)
    unties: bool = False


def open_adapter(directory: Path, config: Any) -> LoadedAdapter:
    """An adapter directory as changes of a model like this.

    Raises:
        GLMError: no adapter there, a damaged one, something else than LoRA or a setting that is not supported, by its
            name, or an adapter of another model.
    """
    directory = Path(directory)
    settings = read_settings(directory)
    modules, whole = _sorted_out(_read_arrays(directory, settings), directory, settings)
    modules = with_single_experts(modules, config, directory)
    names = [f"{module}.weight" for module in modules] + list(whole)
    layout = find_layout(names, config)
    _check_names(directory, settings, modules, names, layout)
    _check_saved(settings, modules, whole, layout)
    adapter = LoadedAdapter(directory, settings)
    for module, parts in modules.items():
        _add_module(adapter, module, parts, layout, config)
    for name, array in whole.items():
        _add_whole(adapter, name, array, layout.rows[name], config)
    _check_shapes(adapter, config)
    _settle_ties(adapter, config)
    return adapter


def check_shape(name: str, array: np.ndarray, shape: Sequence[int], directory: Path) -> None:
    if list(shape) != list(array.shape):
        raise GLMError(f"{directory}: {name} is {list(array.shape)} and the model needs {list(shape)}: {FOREIGN}")


def _read_arrays(directory: Path, settings: Settings) -> Adapter:
    """All arrays of the weight file, by the names in it."""
    names = _NAMES[settings.kind]
    path = next((directory / name for name in names if (directory / name).is_file()), directory / names[0])
    require_real(path)
    if path.suffix == ".pdparams":
        return load_pdparams(path)
    if path.suffix == ".bin":
        return load_torch_bin(path)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise GLMError(f"{path} is missing beside its {settings.path.name}") from None
    except SafetensorError as error:
        raise GLMError(f"{path} is not a whole safetensors file: {error}") from None


def _sorted_out(
    arrays: Adapter, directory: Path, settings: Settings
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Parts of adapters by module, as Paddle has them, and whole weights by name, as they lie in the file."""
    modules: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    whole = {}
    for stored, array in arrays.items():
        name = _FRONT.sub("", stored, count=1) if _FRONT.match(stored) else stored
        match = _OF_AN_ADAPTER.fullmatch(name)
        if match:
            part = _PARTS[match["part"]] + (".bias" if match["end"] == ".bias" else "")
            transposed = settings.kind == PEFT and part in ("lora_A", "lora_B")
            modules[match["module"]][part] = array.T if transposed else array
        elif settings.kind == MLX and settings.dora and name.endswith(".m"):
            modules[name.removesuffix(".m")]["magnitude"] = array
        elif ".lora_" in name or ".token_adapter." in name:
            raise GLMError(f"{directory} holds {stored}, which plain LoRA does not have")
        elif ".original_module." not in name:
            whole[_WRAPPERS.sub("", name)] = array
    return dict(modules), whole


def _check_names(directory: Path, settings: Settings, modules: Mapping, names: list[str], layout: Layout) -> None:
    """Raises GLMError where layers of the file are none of the model, or those that its settings name are missing."""
    odd = sorted(name for name in names if name not in layout.rows)
    odd += sorted(f"{module}.weight" for module in modules if module not in layout.matrices)
    if odd:
        raise GLMError(
            f"{directory} has, and the model lacks, {odd[0].removesuffix('.weight')} ({len(odd)} such): {FOREIGN}"
        )
    adapted = {module for module, parts in modules.items() if parts.keys() != {"tokens"}}
    named = _named(settings, adapted, layout)
    beside = sorted(module for module in adapted - named if not layout.is_tied_head(module))
    if beside and settings.kind == PEFT:  # which would pass them over
        raise GLMError(
            f"{settings.path} does not name {beside[0]} ({len(beside)} such), which the file beside it adapts: "
            "target_modules and the matrices are of different adapters"
        )
    if absent := sorted(module for module in named - adapted if not layout.is_tied_head(module)):
        raise GLMError(
            f"{directory} lacks {absent[0]}.lora_A ({len(absent)} such), which {settings.path.name} names: the file "
            "is not whole, or the two are of different adapters"
        )
    parts = ("lora_A", "lora_B", *(["magnitude"] if settings.dora else []))
    lost = [f"{module}.{part}" for module in sorted(adapted) for part in parts if part not in modules[module]]
    if lost:
        raise GLMError(f"{directory} lacks {lost[0]} ({len(lost)} such): the file is not whole")
    for part, said in {"magnitude": settings.dora, "lora_B.bias": settings.lora_bias}.items():
        odd = sorted(module for module in adapted if part in modules[module])
        if odd and not said and settings.kind == PEFT:  # which would pass them over
            raise GLMError(
                f"{directory} has {odd[0]}.{_SAID_BY[part][0]} ({len(odd)} such), and {settings.path.name} does not "
                f"say {_SAID_BY[part][1]}: the two are of different adapters"
            )


def _check_saved(settings: Settings, modules: Mapping, whole: Mapping, layout: Layout) -> None:
    """Raises GLMError where whole weights or rows that the settings name are not in the file."""
    there = [name.rpartition(".")[0] for name in layout.rows]
    for saved in settings.saved:
        known = any(f"{saved}." in f"{module}." for module in there)
        if known and not any(f"{saved}." in name for name in whole):
            raise GLMError(f"{settings.path}: modules_to_save has {saved}, and the file beside it no weight of it")
    if settings.tokens and not any("tokens" in parts for parts in modules.values()):
        raise GLMError(f"{settings.path}: trainable_token_indices names tokens, and the file beside it has no rows")


def _named(settings: Settings, adapted: set[str], layout: Layout) -> set[str]:
    """The modules that the settings name; all of a kind of which some have an adapter, where they do not say."""
    if settings.targets:
        named = {module for module in layout.matrices if settings.targets(module, layout.kind(module))}
        # transformers 5 holds experts in no layers, so that settings which name every gate_proj mean none of theirs.
        return named if any(map(_of_expert, adapted)) else {module for module in named if not _of_expert(module)}
    if settings.kind == MLX:  # num_layers counts from the end, and the file says which they are
        return adapted
    kinds = {module.rpartition(".")[2] for module in adapted}
    return {module for module in layout.matrices if module.rpartition(".")[2] in kinds}


def _of_expert(module: str) -> bool:
    return stack_name(f"{module}.weight") != f"{module}.weight"


def _add_module(adapter: LoadedAdapter, module: str, parts: Mapping, layout: Layout, config: Any) -> None:
    """The parts of an adapter of one stored layer."""
    settings, row = adapter.settings, layout.matrices[module]
    pieces = {part: _pieces(array, row, part, config, adapter.directory) for part, array in parts.items()}
    scaling = settings.scaling(module)
    for index, memory in enumerate(row.memory):
        change = adapter.changes.setdefault(memory, Change())
        if settings.kind == MLX and "magnitude" in pieces and not row.linear:
            raise GLMError(f"{settings.path}: fine_tune_type dora on an embedding ({module}) is not supported")
        if "tokens" in pieces:
            change.tokens, change.rows = _token_ids(settings, module), pieces["tokens"][index]
        if "lora_A" in pieces:
            change.lora_A, change.lora_B = pieces["lora_A"][index], pieces["lora_B"][index]
            change.scaling, change.fused, change.r = scaling, row, settings.rank(module)
            change.init = settings.init if row.linear else ""
            if change.init:  # of a decomposition, which has no more ranks than the weight
                change.r = min(change.r, len(parts["lora_A"]), parts["lora_B"].shape[1])
            change.magnitude = pieces["magnitude"][index] if "magnitude" in pieces else None
    if "lora_B.bias" in parts:
        _add_lora_bias(adapter, module, parts["lora_B.bias"] * np.float32(scaling), layout, config)


def _add_lora_bias(adapter: LoadedAdapter, module: str, array: np.ndarray, layout: Layout, config: Any) -> None:
    row = layout.rows.get(f"{module}.bias")
    if row is None:
        raise GLMError(f"{adapter.settings.path} sets lora_bias, and {module} of the model has no bias to add it to")
    for memory, piece in zip(row.memory, _pieces(array, row, "bias", config, adapter.directory), strict=True):
        adapter.changes.setdefault(memory, Change()).added = piece


def _add_whole(adapter: LoadedAdapter, name: str, array: np.ndarray, row: TensorEntry, config: Any) -> None:
    if row.linear and adapter.settings.kind != PADDLE:
        array = array.T
    for memory, piece in zip(row.memory, _pieces(array, row, "weight", config, adapter.directory), strict=True):
        change = adapter.changes.setdefault(memory, Change())
        # PEFT saves the embedding and the head beside their own adapter as it has left them, and loads them so.
        change.weight, change.init = piece, ""


def _pieces(array: np.ndarray, row: TensorEntry, part: str, config: Any, directory: Path) -> list[np.ndarray]:
    """What each weight of a stored one has of a part: the first matrix is theirs together, the others are cut."""
    if part in ("lora_A", "tokens") or len(row.memory) == 1:
        return [array] * len(row.memory)
    try:
        return row.packing.unpack(array, config)
    except ValueError as error:
        raise GLMError(
            f"{directory}: {part} of {row.stored} {list(array.shape)} is of another model: {error}"
        ) from None


def _token_ids(settings: Settings, module: str) -> list[int]:
    tokens = settings.tokens
    if isinstance(tokens, dict):
        tokens = next((ids for name, ids in tokens.items() if module == name or module.endswith(f".{name}")), None)
    if not isinstance(tokens, list) or not all(type(token) is int and token >= 0 for token in tokens):
        raise GLMError(f"{settings.path}: trainable_token_indices does not say which tokens {module} has rows for")
    return tokens


def _check_shapes(adapter: LoadedAdapter, config: Any) -> None:
    shapes = single_shapes(parameter_shapes(config)) | {HEAD: (config.hidden_size, config.vocab_size)}
    for name, change in adapter.changes.items():
        shape, layer = shapes[name], name.removesuffix(".weight")
        wanted = {"weight": (name, shape), "added": (name, shape), "magnitude": (f"{layer}.magnitude", shape[1:])}
        wanted |= {"lora_A": (f"{layer}.lora_A", (shape[0], change.r))}
        wanted |= {"lora_B": (f"{layer}.lora_B", (change.r, *shape[1:]))}
        wanted |= {"rows": (f"{layer}.rows", (len(change.tokens), config.hidden_size))}
        if name in (EMBEDDING, HEAD) and change.weight is not None and change.weight.shape != tuple(shape):
            raise GLMError(
                f"{adapter.directory}: {name} is {list(change.weight.shape)} and the model needs {list(shape)}: tokens "
                "were added to the vocabulary, so give the base model with its embedding resized alike"
            )
        for part, (label, needed) in wanted.items():
            if (array := getattr(change, part)) is not None:
                _check_rank(part, label, array, change.r, adapter.settings)
                check_shape(label, array, needed, adapter.directory)
        if change.tokens and max(change.tokens) >= config.vocab_size:
            raise GLMError(
                f"{adapter.settings.path}: trainable_token_indices has {max(change.tokens)}, and the model's "
                f"vocabulary {config.vocab_size} rows"
            )


def _check_rank(part: str, label: str, array: np.ndarray, r: int, settings: Settings) -> None:
    found = {"lora_A": array.shape[-1:], "lora_B": array.shape[:1]}.get(part, (r,))
    if found != (r,):
        raise GLMError(
            f"{settings.path} gives {label.rpartition('.')[0]} the rank {r}, and {part} of the file beside it has "
            f"{found[0] if found else 'none'}: r or rank_pattern is another adapter's"
        )


def _settle_ties(adapter: LoadedAdapter, config: Any) -> None:
    """Finds out whether a head that is the word embedding stays so.

    Raises:
        GLMError: it does not, and models of this family cannot be without it.
    """
    if not config.tie_word_embeddings:
        return
    embedding, head = (adapter.changes.get(name, Change()) for name in (EMBEDDING, HEAD))
    both = head.weight is not None and head.lora_A is None and embedding.weight is not None
    if both and np.array_equal(embedding.weight, head.weight.T):
        del adapter.changes[HEAD]
        return
    alone = embedding.lora_A is not None or (embedding.weight is not None and config.can_untie)
    adapter.unties = HEAD in adapter.changes or (alone and not adapter.settings.tied)
    if not adapter.unties:
        return
    if head.lora_A is not None and (init := adapter.settings.init):
        raise GLMError(f"{adapter.settings.path}: init_lora_weights {init} of a tied head is not supported")
    if not config.can_untie:
        raise GLMError(
            f"{adapter.settings.path} has LoRA on the word embedding, and this model's head, which is the same weight, "
            "would stay without: train the embedding with modules_to_save or trainable_token_indices instead"
        )
    adapter.changes.setdefault(HEAD, Change(tokens=embedding.tokens, rows=embedding.rows))

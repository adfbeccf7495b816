"""LoRA adapters (Hu et al., arXiv:2106.09685) on PaddleNLP's LoRAModel: add, load, save, merge.

Adapters of every form that glm/checkpoint/adapter.py reads are merged; those of two matrices per layer are trained
further. Two forms are written: PaddleNLP's (`lora_config.json`, `lora_model_state.pdparams`) and Hugging Face PEFT's
(`adapter_config.json`, `adapter_model.safetensors`, glm/checkpoint/adapter_peft.py).
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle import Tensor, nn
from paddle.utils import unique_name
from paddlenlp.peft import LoRAConfig, LoRAModel

from glm.checkpoint.adapter import PADDLE_WEIGHTS, Adapter, open_adapter
from glm.checkpoint.adapter_merge import merged
from glm.checkpoint.adapter_names import EMBEDDING
from glm.checkpoint.adapter_peft import save_peft
from glm.checkpoint.adapter_settings import PADDLE_CONFIG
from glm.checkpoint.adapter_trainable import UntrainableAdapter, check_adapter, read_adapter
from glm.checkpoint.expert_stacks import stack_name, unstacked
from glm.checkpoint.write import write_pdparams
from glm.config.shapes import LORA_TARGETS, is_expert_stack
from glm.distributed.plan import PLAN, ROW
from glm.distributed.tensor_parallel import OwnDropout, has_own_tokens, linear
from glm.errors import GLMError
from glm.files.atomic import atomic_file, write_json
from glm.model.expert_lora import add_expert_adapters, expert_adapters
from glm.model.experts import StackedLinear
from glm.model.init import draw_seed, randomise_adapter, undrawn
from glm.model.lora_layers import divide_tokens
from glm.model.network import GLMNetwork
from glm.model.parameters import full_shape, full_weight, own_part, set_parameter

_EXPERTS = r".*\.experts\.\d+\..*"  # what a saved adapter says of them


class GLMLoRAModel(LoRAModel):
    """PaddleNLP's LoRAModel, saved atomically and with the names the adapter has on one device."""

    def save_pretrained(self, save_directory: str | Path, *, peft: bool = False, **kwargs) -> None:
        """Writes the whole adapter, in PaddleNLP's files or, with `peft`, in Hugging Face PEFT's.

        All ranks that share the model must call it; the main process writes.
        """
        state = self.adapter_state()
        if kwargs.get("is_main_process", True):
            directory = Path(save_directory)
            directory.mkdir(parents=True, exist_ok=True)
            if peft:
                settings = {"alpha": self.lora_config.lora_alpha, "dropout": self.lora_config.lora_dropout}
                save_peft(state, self.model.config, directory, **settings)
            else:
                _save_paddle(state, self.lora_config, directory)

    def load_adapter(self, directory: Path) -> None:
        """Replaces the adapter's matrices by saved ones of the same model, rank and targets.

        Raises:
            GLMError: no adapter there, a damaged one, or one of a model with other shapes.
        """
        _, adapter = read_adapter(Path(directory), self.model.config)
        config, parameters = self.model.config, self._adapter_parameters()
        check_adapter(adapter, {name: full_shape(name, p, config) for name, p in parameters.items()}, directory)
        for name, parameter in parameters.items():
            set_parameter(parameter, own_part(name, adapter[name], config))

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Within it, the model is what it was before it got the adapter."""
        self._enable(False)
        try:
            yield
        finally:
            self._enable(True)

    def _enable(self, enabled: bool) -> None:
        for adapter in expert_adapters(self.model):
            adapter.enabled = enabled
        (self.enable_lora if enabled else self.disable_lora)()

    def mark_only_lora_as_trainable(self) -> None:
        """PaddleNLP's, and the adapters of experts, which it does not know."""
        super().mark_only_lora_as_trainable()
        for adapter in expert_adapters(self.model):
            adapter.layer.lora_A.stop_gradient = adapter.layer.lora_B.stop_gradient = False

    def adapter_state(self) -> Adapter:
        """The adapter's whole matrices by name. All ranks that share the model must call it."""
        state = {name: full_weight(name, p, self.model.config) for name, p in self._adapter_parameters().items()}
        return unstacked(state)

    def _adapter_parameters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.state_dict().items() if ".lora_" in name}


def add_lora(
    model: GLMNetwork, r: int = 8, alpha: float | None = None, targets: str = "attention", dropout: float = 0.0
) -> GLMLoRAModel:
    """Freezes a model and adds fresh adapters, which change nothing until they are trained.

    Args:
        r: rank of the adapters.
        alpha: their output is scaled by alpha / r; 2·r if not given.
        targets: `attention` (what makes queries, keys and values), `all` (every linear layer of the blocks, without
            experts and routers) or `experts` (experts, too).
        dropout: on the adapters' input, in training.

    Raises:
        GLMError: a rank below 1 or an unknown target.
    """
    if r < 1:
        raise GLMError(f"r is {r}; the rank of a LoRA adapter must be at least 1")
    if targets not in LORA_TARGETS:
        raise GLMError(f"lora_targets '{targets}' is not one of {', '.join(LORA_TARGETS)}")
    there = {name.rpartition(".")[2] for name, _ in model.named_sublayers()}
    modules = [_pattern(module, model) for module in LORA_TARGETS[targets] if module in there]
    experts = targets == "experts"
    if experts and not model.config.n_routed_experts:
        raise GLMError("lora_targets is experts, and this model has none: choose all")
    return _wrap(model, r, 2 * r if alpha is None else alpha, modules, dropout, experts)


def load_lora(model: GLMNetwork, directory: str | Path) -> GLMLoRAModel | GLMNetwork:
    """Adds a saved adapter, of any form, to the model it was trained on.

    Returns:
        The model with the adapter beside its weights; or the model itself, with the adapter merged into its weights,
        where it is more than two matrices of one rank per layer (DoRA, biases, whole weights, an embedding …).

    Raises:
        GLMError: no adapter there, a damaged one, or one of a model with other shapes.
    """
    try:
        return load_trainable_lora(model, directory)
    except UntrainableAdapter:
        return merge_adapter(model, directory)


def load_trainable_lora(model: GLMNetwork, directory: str | Path, dropout: float | None = None) -> GLMLoRAModel:
    """As `load_lora`, for training.

    Args:
        dropout: on the adapters' input, in place of the saved one's.

    Raises:
        UntrainableAdapter: more than that; it names the setting.
    """
    directory = Path(directory)
    settings, adapter = read_adapter(directory, model.config)
    modules = _target_modules(adapter, model)
    dropout = settings["dropout"] if dropout is None else dropout
    experts = any(map(is_expert_stack, adapter))
    lora = _wrap(model, settings["r"], settings["alpha"], modules, dropout, experts)
    lora.load_adapter(directory)
    return lora


def _target_modules(adapter: Adapter, model: GLMNetwork) -> list[str]:
    """Patterns of the layers of an adapter: their kinds where all of a kind have one, else their names."""
    there, adapted = defaultdict(set), defaultdict(set)
    for name, layer in model.named_sublayers():
        if not isinstance(layer, StackedLinear):
            there[name.rpartition(".")[2]].add(name)
    for layer in {name.rpartition(".")[0] for name in adapter if not is_expert_stack(name)}:
        adapted[layer.rpartition(".")[2]].add(layer)
    patterns = []
    for kind, layers in sorted(adapted.items()):
        patterns += [_pattern(kind, model)] if layers == there[kind] else sorted(layers)
    return patterns


def _pattern(kind: str, model: GLMNetwork) -> str:
    """Of all layers of a kind but the experts', which PaddleNLP has no adapters for."""
    stacks = any(isinstance(layer, StackedLinear) for name, layer in model.named_sublayers() if name.endswith(kind))
    return rf".*(?<!\.experts\.){kind}" if stacks else f".*{kind}"


def merge_adapter(model: GLMNetwork, directory: str | Path) -> GLMNetwork:
    """Adds a saved adapter, of any form, into a model's weights, in place. All ranks that share the model must call it.

    The sum is taken in float32 and rounded to the weights' dtype.

    Raises:
        GLMError: as `load_lora`; the model is then as before.
    """
    config = model.config
    adapter = open_adapter(Path(directory), config)
    touched = set(map(stack_name, adapter.changes)) | ({EMBEDDING} if adapter.unties else set())
    before = {name: parameter for name, parameter in model.state_dict().items() if name in touched}
    if adapter.unties:
        _untie(model)
    parameters = model.state_dict()
    tensors = ((name, full_weight(name, parameter, config)) for name, parameter in before.items())
    for name, array in merged(tensors, adapter, config):
        set_parameter(parameters[name], own_part(name, array, config))
    return model


def _untie(model: GLMNetwork) -> None:
    """Gives a model whose head is the word embedding one of its own, whose weight is still to be set."""
    config = model.config
    with undrawn():
        model.lm_head = linear(config, "lm_head", config.hidden_size, config.vocab_size, bias=False)
    model.lm_head.to(dtype=config.dtype)
    config.tie_word_embeddings = False


def merge_lora(lora: GLMLoRAModel | GLMNetwork) -> GLMNetwork:
    """The plain model with the adapters added into its weights; a plain model as it is."""
    if isinstance(lora, GLMNetwork):
        lora.eval()
        return lora
    lora.merge()
    for adapter in expert_adapters(lora.model):
        adapter.merge()
    model, config = lora.model, lora.model.config
    layers = dict(model.named_sublayers(include_self=True))
    for name, layer in layers.items():
        if hasattr(layer, "lora_A"):
            # PaddleNLP's own way back knows no tensor-parallel layers.
            parent, _, attribute = name.rpartition(".")
            with undrawn():
                shape = full_shape(f"{name}.weight", layer.weight, config)
                plain = linear(config, attribute, *shape, bias=layer.bias is not None)
            plain.weight, plain.bias = layer.weight, layer.bias
            setattr(layers[parent], attribute, plain)
    model.eval()
    return model


def _wrap(
    model: GLMNetwork, r: int, alpha: float, modules: list[str], dropout: float, experts: bool = False
) -> GLMLoRAModel:
    config = LoRAConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=modules,
        dtype=model.config.dtype,
        tensor_parallel_degree=model.config.tensor_parallel_degree,
    )
    seed = draw_seed()
    with unique_name.guard():  # as in glm.model.pretrained
        lora = GLMLoRAModel(model, config)
        if experts:
            with undrawn():
                add_expert_adapters(model, r, alpha, dropout)
            lora.mark_only_lora_as_trainable()
    randomise_adapter(lora.model, seed)
    _drop_own_features(lora.model)
    if model.config.sequence_parallel:
        divide_tokens(model)
    return lora


def _drop_own_features(model: GLMNetwork) -> None:
    """Layers that are cut by rows see other features on each rank, so their dropout draws for each rank by itself, and
    under sequence parallelism that of the others, which see other tokens.
    """
    for name, layer in model.named_sublayers():
        kind = name.rpartition(".")[2]
        # Experts see all tokens.
        divided = has_own_tokens(model.config, kind) and not isinstance(layer, StackedLinear)
        own = PLAN.get(kind) == ROW or divided
        if own and isinstance(getattr(layer, "lora_dropout", None), nn.Dropout):
            layer.lora_dropout = OwnDropout(layer.lora_dropout.p, model.ranks)


def _save_paddle(state: Adapter, config: LoRAConfig, directory: Path) -> None:
    with atomic_file(directory / PADDLE_WEIGHTS) as temporary:
        write_pdparams(temporary, state)
    targets = [*config.target_modules, *([_EXPERTS] if any(stack_name(name) != name for name in state) else [])]
    write_json(directory / PADDLE_CONFIG, config.to_dict() | {"tensor_parallel_degree": 1, "target_modules": targets})

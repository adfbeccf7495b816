"""A model and its processor by name: a directory, or a preset."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import glm
from glm.checkpoint import open_checkpoint
from glm.checkpoint.adapter import open_adapter
from glm.checkpoint.adapter_merge import config_of_merged, merged
from glm.checkpoint.adapter_settings import adapter_dtype
from glm.checkpoint.file_names import CONFIG_NAME, weight_names
from glm.config.config_json import refuse_adapter
from glm.config.fields import PlainConfig
from glm.config.hub import download_model
from glm.config.presets import PRESETS, UNTRAINED_PRESETS, bundled_tokenizer, is_directory, preset_name
from glm.distributed.processes import digest
from glm.encoding.processor import Processor, open_processor, processor_of
from glm.errors import GLMError, UsageError
from glm.files.checksum import sample
from glm.generation.config_json import GenerationFile
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.calls import TokenizerCalls

AdapterPaths = str | Path | Sequence[str | Path] | None  # a directory or several


def load_processor(
    name_or_path: str | Path, lengths: Sequence[int | None] = (None, None), tokenizer: Any = None, **options
) -> Processor:
    """The processor of a model directory or of a preset; other arguments and errors of `open_processor`.

    Args:
        tokenizer: instead of the directory's: a tokenizer, or the name of its directory or preset.

    Raises:
        GLMError: also for an unknown name.
    """
    directory = _text_directory(str(name_or_path))
    if tokenizer is None:
        return open_processor(directory, lengths, **options)
    return processor_of(load_tokenizer(tokenizer), GenerationFile.read(directory), lengths, **options)


def check_family(processor: Processor, config: Any) -> None:
    """Raises UsageError for the tokenizer of a model that counts its tokens in another way."""
    from glm.model.positions import POSITIONS

    given, wanted = len(processor.positions.step), POSITIONS[config.position_type].position_rows
    if given != wanted:
        raise UsageError(
            f"the tokenizer is that of a {processor.tokenizer.kind} model, with {given} positions per token, and this "
            f"model has {wanted}: take the model's own"
        )


def load_tokenizer(tokenizer: Any):
    """A tokenizer as it is, or of a directory or preset. Raises UsageError for something else."""
    if isinstance(tokenizer, (str, Path)):
        return GLMTokenizer.from_pretrained(tokenizer)
    if not isinstance(tokenizer, TokenizerCalls):
        raise UsageError(
            f"tokenizer is a {type(tokenizer).__name__}: give one of glm.AutoTokenizer, or its directory or preset"
        )
    return tokenizer


def _text_directory(name_or_path: str) -> Path:
    return bundled_tokenizer(name_or_path) if _untrained(name_or_path) else _directory(name_or_path)


def _untrained(name_or_path: str) -> bool:
    """Whether it is a preset that nobody trained, and no directory of that name is there."""
    return preset_name(name_or_path) in UNTRAINED_PRESETS and not is_directory(name_or_path)


def _directory(name_or_path: str) -> Path:
    """Of a model that somebody trained."""
    directory, name = Path(name_or_path), preset_name(name_or_path)
    if is_directory(directory):
        refuse_adapter(directory)
        return directory
    if name in PRESETS:
        return download_model(name)
    raise GLMError(f"'{name_or_path}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")


def adapter_paths(lora_path: AdapterPaths) -> list[Path]:
    """One adapter directory or several as a list."""
    if not lora_path:
        return []
    return [Path(path) for path in ([lora_path] if isinstance(lora_path, (str, Path)) else lora_path)]


def model_source(name_or_path: str | Path, lora_path: AdapterPaths = None) -> str:
    """A model, and the adapters that were merged into it, as they were named."""
    return " + ".join(map(str, (name_or_path, *adapter_paths(lora_path))))


def model_identity(name_or_path: str | Path, lora_path: AdapterPaths = None) -> str:
    """What tells a model from others: the digest of its config.json and samples of its weights, or its preset; and the
    digest of each adapter.
    """
    name = str(name_or_path)
    identity = f"{preset_name(name)}{' (random weights)' if preset_name(name) in UNTRAINED_PRESETS else ''}"
    if is_directory(name):
        directory = Path(name)
        config = directory / CONFIG_NAME
        content = config.read_bytes() if config.is_file() else preset_name(name)
        identity = digest(content, *(sample(directory / file) for file in weight_names(directory)))
    adapters = (
        [sample(file) for file in sorted(path.glob("*")) if file.is_file()] for path in adapter_paths(lora_path)
    )
    return " + ".join([identity, *(digest(*contents) for contents in adapters)])


def stream_weights(
    name_or_path: str | Path, lora_path: AdapterPaths = None
) -> tuple[PlainConfig, Iterator[tuple[str, np.ndarray]]]:
    """A model's configuration, and its weights one after the other, without a model in memory and without PaddleNLP.

    Adapters are merged one after the other, weight by weight, in float32. Only a preset that nobody trained is drawn
    in memory, by Paddle.

    Returns:
        The configuration; names and arrays in the in-memory layout and the checkpoint's dtype.
    Raises:
        GLMError: nothing there, a damaged or foreign file, an adapter of another model.
    """
    name = str(name_or_path)
    if _untrained(name):
        config, tensors = PlainConfig.preset(name), _drawn(name)
    else:
        directory = _directory(name)
        config = PlainConfig.from_pretrained(str(directory))
        tensors = open_checkpoint(directory).tensors(config)
    for path in adapter_paths(lora_path):
        adapter = open_adapter(path, config)
        tensors, config = merged(tensors, adapter, config), config_of_merged(adapter, config)
    return config, tensors


def _drawn(preset: str) -> Iterator[tuple[str, np.ndarray]]:
    import paddle

    from glm.api.causal_lm import GLMForCausalLM
    from glm.model.parameters import as_numpy

    paddle.set_device("cpu")
    model = GLMForCausalLM.from_pretrained(preset, dtype="float32")
    return ((name, as_numpy(parameter)) for name, parameter in model.state_dict().items())


def load_merged_model(name_or_path: str, lora_path: AdapterPaths = None, dtype: str | None = None):
    """A model ready to generate, with adapters merged into its weights.

    Args:
        name_or_path: directory or preset.
        lora_path: directory of a LoRA adapter trained on that model, or several, in the order in which they are merged.
        dtype: of the weights; if not given the one the last adapter was trained in, else the checkpoint's own.

    Adapters are merged in float32, whatever the dtype: the sum is then rounded once.
    """
    from glm.api.causal_lm import GLMForCausalLM
    from glm.model.lora import merge_adapter

    glm.tune_for_generation()
    paths = adapter_paths(lora_path)
    model = GLMForCausalLM.from_pretrained(name_or_path, dtype="float32" if paths else dtype)
    for path in paths:
        merge_adapter(model, path)
    if paths:
        said = [found for found in map(adapter_dtype, paths) if found]
        model.cast(dtype or (said[-1] if said else "float32"))
    model.eval()
    return model

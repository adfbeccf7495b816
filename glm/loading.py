"""A model and its text side by name: a directory, or a preset."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from glm.adapter_file import adapter_dtype, merged
from glm.checkpoint import open_checkpoint
from glm.checkpoint.hub import download_model
from glm.config_file import refuse_adapter
from glm.datasets.encoding import Encoder, open_encoder
from glm.errors import GLMError
from glm.plain_config import PlainConfig
from glm.presets import PRESETS, UNTRAINED_PRESETS, bundled_tokenizer, is_directory, preset_name


def load_encoder(name_or_path: str | Path, lengths: Sequence[int | None] = (None, None), **options) -> Encoder:
    """The text side of a model directory or of a preset; arguments and errors of `open_encoder`.

    Raises:
        GLMError: also for an unknown name.
    """
    return open_encoder(_text_directory(str(name_or_path)), lengths, **options)


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


def model_source(name_or_path: str | Path, lora_path: Path | None = None) -> str:
    """A model, and the adapter that was merged into it, as they were named."""
    return f"{name_or_path} + {lora_path}" if lora_path else str(name_or_path)


def stream_weights(
    name_or_path: str | Path, lora_path: Path | None = None
) -> tuple[PlainConfig, Iterator[tuple[str, np.ndarray]]]:
    """A model's configuration, and its weights one after the other, without a model in memory and without PaddleNLP.

    An adapter is merged weight by weight, in float32. Only a preset that nobody trained is drawn in memory, by Paddle.

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
    return config, merged(tensors, lora_path, config) if lora_path else tensors


def _drawn(preset: str) -> Iterator[tuple[str, np.ndarray]]:
    import paddle

    from glm.model import GLMForCausalLM
    from glm.parameters import as_numpy

    paddle.set_device("cpu")
    model = GLMForCausalLM.from_pretrained(preset, dtype="float32")
    return ((name, as_numpy(parameter)) for name, parameter in model.named_parameters())


def load_merged_model(name_or_path: str, lora_path: Path | None = None, dtype: str | None = None):
    """A model ready to generate, with an adapter merged into its weights.

    Args:
        name_or_path: directory or preset.
        lora_path: directory of a LoRA adapter trained on that model.
        dtype: of the weights; if not given the one the adapter was trained in, else the checkpoint's own.

    An adapter is merged in float32, whatever the dtype: the sum is then rounded once.
    """
    from glm.lora import load_lora, merge_lora
    from glm.model import GLMForCausalLM

    if lora_path is None:
        model = GLMForCausalLM.from_pretrained(name_or_path, dtype=dtype)
    else:
        model = GLMForCausalLM.from_pretrained(name_or_path, dtype="float32")
        dtype = dtype or adapter_dtype(lora_path)
        model = merge_lora(load_lora(model, lora_path)).cast(dtype or "float32")
    model.eval()
    return model

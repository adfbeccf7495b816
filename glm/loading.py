"""A model and its text side by name: a directory, or a preset."""

from collections.abc import Sequence
from pathlib import Path

from glm.checkpoint.hub import download_model
from glm.datasets.encoding import Encoder, open_encoder
from glm.errors import GLMError
from glm.presets import PRESETS, UNTRAINED_PRESETS, bundled_tokenizer, preset_name

BUNDLED = Path(__file__).resolve().parents[1] / "data"


def load_encoder(name_or_path: str | Path, lengths: Sequence[int | None] = (None, None), **options) -> Encoder:
    """The text side of a model directory or of a preset; arguments and errors of `open_encoder`.

    Raises:
        GLMError: also for an unknown name.
    """
    return open_encoder(_text_directory(str(name_or_path)), lengths, **options)


def _text_directory(name_or_path: str) -> Path:
    directory, name = Path(name_or_path), preset_name(name_or_path)
    if directory.is_dir():
        return directory
    if name in UNTRAINED_PRESETS:
        return BUNDLED / bundled_tokenizer(name)
    if name in PRESETS:
        return download_model(name)
    raise GLMError(f"'{name_or_path}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")


def load_merged_model(name_or_path: str, lora_path: Path | None = None, dtype: str | None = None):
    """A model ready to generate, with an adapter merged into its weights.

    Args:
        name_or_path: directory or preset.
        lora_path: directory of a LoRA adapter trained on that model.
        dtype: of the weights; if not given the one the adapter was trained in, else the checkpoint's own.

    An adapter is merged in float32, whatever the dtype: the sum is then rounded once.
    """
    from glm.adapter_file import adapter_dtype
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

"""A model and its tokenizer by name: a directory, or a preset."""

from pathlib import Path

from glm.checkpoint.hub import download_model
from glm.config import PRESETS, UNTRAINED_PRESETS, preset_name
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer

BUNDLED = Path(__file__).resolve().parents[1] / "data"


def load_tokenizer(name_or_path: str):
    """The tokenizer of a model directory or of a preset.

    Raises:
        GLMError: an unknown name, or a directory without tokenizer files.
    """
    directory = Path(name_or_path)
    name = preset_name(name_or_path)
    if directory.is_dir():
        return _for_scripts(GLMTokenizer.from_pretrained(directory), name_or_path)
    if name in UNTRAINED_PRESETS:
        return GLMTokenizer.from_pretrained(BUNDLED / name)
    if name in PRESETS:
        return GLMTokenizer.from_pretrained(download_model(name))
    raise GLMError(f"'{name_or_path}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")


def _for_scripts(tokenizer, name_or_path: str):
    if tokenizer.kind != "glm-chinese":
        raise GLMError(
            f"{name_or_path} is a {tokenizer.kind} model; the scripts take GLM (2021) so far, Python more: "
            "glm.GLMForCausalLM, glm.GLMTokenizer, glm.chat"
        )
    return tokenizer


def load_merged_model(name_or_path: str, lora_path: Path | None = None, dtype: str | None = None):
    """A model ready to generate, with an adapter merged into its weights.

    Args:
        name_or_path: directory or preset.
        lora_path: directory of a LoRA adapter trained on that model.
        dtype: of the weights; if not given the one the adapter was trained in, else the checkpoint's own.

    An adapter is merged in float32, whatever the dtype: the sum is then rounded once.
    """
    from glm.lora import adapter_dtype, load_lora, merge_lora
    from glm.model import GLMForCausalLM

    if lora_path is None:
        model = GLMForCausalLM.from_pretrained(name_or_path, dtype=dtype)
    else:
        model = GLMForCausalLM.from_pretrained(name_or_path, dtype="float32")
        dtype = dtype or adapter_dtype(lora_path)
        model = merge_lora(load_lora(model, lora_path)).cast(dtype or "float32")
    model.eval()
    return model

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
        return GLMTokenizer.from_pretrained(directory)
    if name in UNTRAINED_PRESETS:
        return GLMTokenizer.from_pretrained(BUNDLED / name)
    if name in PRESETS:
        return GLMTokenizer.from_pretrained(download_model(name))
    raise GLMError(f"'{name_or_path}' is neither a directory nor a preset; presets: {', '.join(PRESETS)}")

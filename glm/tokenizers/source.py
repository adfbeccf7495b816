"""Where a tokenizer's files lie: a directory, what comes with this project, or a published model's repository."""

from pathlib import Path

from glm.config.presets import PRESETS, bundled_tokenizer, is_directory, preset_name
from glm.errors import GLMError


def tokenizer_directory(name_or_path: str | Path) -> Path:
    """The directory of a name or path.

    Raises:
        GLMError: neither a directory nor a preset, or a published one that cannot be downloaded.
    """
    directory, name = Path(name_or_path), preset_name(str(name_or_path))
    if is_directory(directory):
        return directory
    if name not in PRESETS:
        raise GLMError(
            f"{directory} is not a directory, and no preset whose vocabulary is bundled or published; pass the folder "
            "that holds the tokenizer files."
        )
    if PRESETS[name].tokenizer:
        return bundled_tokenizer(name)
    from glm.config.hub import download_tokenizer

    return download_tokenizer(name)

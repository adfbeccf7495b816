"""The small files beside weights (configuration, tokenizer, how to generate): their names, and whose they are."""

from pathlib import Path

from glm.checkpoint.file_names import CONFIG_NAME, GENERATION_NAME, weight_names
from glm.errors import GLMError
from glm.tokenizers.kept_files import NAMES as TOKENIZER_FILES
from glm.tokenizers.registry import FORMATS as TOKENIZERS

TEXT_SIDE = (CONFIG_NAME, GENERATION_NAME, *TOKENIZER_FILES, *(kind.vocabulary_file for kind in TOKENIZERS))
MANIFESTS = "*.manifest.json"  # of exports


def text_side_names(directory: Path) -> list[str]:
    """What a directory holds of a text side."""
    return [name for name in TEXT_SIDE if (directory / name).is_file()]


def require_no_export(directory: Path) -> None:
    """Raises GLMError where an export would find other files than its own."""
    if manifests := sorted(path.name for path in directory.glob(MANIFESTS)):
        raise GLMError(
            f"{directory} holds the export of {manifests[0]}, whose configuration and tokenizer a model would replace: "
            "choose another directory"
        )


def require_place_for_model(directory: Path) -> None:
    """Makes sure that a model which is saved there replaces a model, or nothing.

    Raises:
        GLMError: a file has the directory's name, or what lies in it belongs to something else.
    """
    if directory.exists() and not directory.is_dir():
        raise GLMError(f"{directory} is a file: choose a directory")
    require_no_export(directory)
    if (names := text_side_names(directory)) and not weight_names(directory):
        raise GLMError(f"{directory / names[0]} is of no model there, and would be replaced: choose another directory")


def remove_text_side(directory: Path, keep: set[str]) -> None:
    """Removes an earlier model's files, which would be read with the new one's."""
    for name in set(TEXT_SIDE) - keep:
        (directory / name).unlink(missing_ok=True)

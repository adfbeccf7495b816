"""Published weights, where there is a network."""

from pathlib import Path

from glm.config.presets import repository
from glm.errors import GLMError

TIMEOUT_SECONDS = 10
NEEDED_FILES = ["*.json", "*.model", "*.safetensors", "*.bin", "*.pdparams", "*.jinja"]
TOKENIZER_FILES = ["*.json", "*.model", "*.jinja"]


def download_model(name: str) -> Path:
    """The local directory of a preset's repository, downloaded on first use into Hugging Face's cache.

    Raises:
        GLMError: no network, no such repository, or a preset without published weights.
    """
    return _download(name, NEEDED_FILES, "weights", ", or pass --from_scratch True for random weights")


def download_tokenizer(name: str) -> Path:
    """The same without weights."""
    return _download(name, TOKENIZER_FILES, "tokenizer")


def _download(name: str, patterns: list[str], what: str, otherwise: str = "") -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    source = repository(name)
    try:
        # snapshot_download alone repeats a failing request for a long time; one probe answers at once.
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(source, timeout=TIMEOUT_SECONDS)
        return Path(snapshot_download(source, allow_patterns=patterns))
    # The library raises requests', its own and plain OSErrors and ValueErrors here.
    except Exception as error:
        raise GLMError(
            f"the {what} of {source} cannot be had from the Hugging Face Hub ({type(error).__name__}); download "
            f"them elsewhere and pass the directory{otherwise}"
        ) from error

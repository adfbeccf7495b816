"""JSON files: one reader, with one-line errors. They are written by glm/files/atomic.py. Imports no framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glm.errors import GLMError
from glm.files.foreign_files import HEAD, decode_text, require_real, stand_in

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
COPY = "copy the file again"


def read_json(path: Path, advice: str = COPY, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        advice: what to do about a file that is none.
        missing: what stands for a file that is not there; without it, that is an error.

    Raises:
        GLMError: as `parse_json`, and where the file holds anything but an object.
    """
    if missing is not None and not path.is_file():
        return missing
    content = parse_json(path, advice)
    if not isinstance(content, dict):
        raise GLMError(f"{path} holds a JSON {type(content).__name__}, not an object: {advice}")
    return content


def parse_json(path: Path, advice: str = COPY) -> Any:
    """What a JSON file holds.

    Raises:
        GLMError: a file that is missing or empty, cannot be read, only stands in another's place (a git-lfs pointer, a
            web page), is not UTF-8, or no JSON.
    """
    require_real(path)
    text = read_text(path, advice)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GLMError(f"{path} is not valid JSON ({error}): {advice}") from None


def read_text(path: Path, advice: str = COPY) -> str:
    """A file's text, UTF-8 with or without byte order mark; errors as of `parse_json`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GLMError(f"{path} cannot be read: {error.strerror}; {advice}") from None
    if what := stand_in(content[:HEAD]):
        raise GLMError(f"{path} {what}")
    return decode_text(content, str(path))

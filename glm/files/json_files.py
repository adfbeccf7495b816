"""The JSON files beside a vocabulary, read with one-line errors and written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from glm.errors import GLMError
from glm.files.foreign_files import require_real

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, {} where the file is missing. Raises GLMError where it is not a JSON object."""
    if not path.is_file():
        return {}
    require_real(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise GLMError(f"{path} cannot be read as JSON ({error}); copy the file again.") from error
    if not isinstance(content, dict):
        raise GLMError(f"{path} holds a JSON {type(content).__name__}, not an object; copy the file again.")
    return content


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` in one step: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, ensure_ascii=False).encode())

"""The files of a tokenizer directory, kept as they were read, so that saving writes the same bytes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm.errors import GLMError
from glm.files import json_files
from glm.files.foreign_files import HEAD, require_real, stand_in

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
# vocab.json and merges.txt repeat what tokenizer.json holds; older programs read them.
NAMES = (
    json_files.CONFIG_FILE,
    json_files.SPECIAL_TOKENS_FILE,
    json_files.ADDED_TOKENS_FILE,
    TEMPLATE_FILE,
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class KeptFiles:
    """File name -> content of everything a tokenizer is made of.

    Attributes:
        contents: bytes by path relative to the directory.
        config: tokenizer_config.json, {} where there is none.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path, vocabulary_file: str) -> KeptFiles:
        """Raises GLMError where the vocabulary file is missing, or a file cannot be read."""
        config = json_files.read_json(directory / json_files.CONFIG_FILE)
        optional = [directory / name for name in (*NAMES, *_code_files(config))]
        optional += sorted((directory / TEMPLATE_FOLDER).glob("*.jinja"))
        require_real(directory / vocabulary_file)
        paths = [directory / vocabulary_file, *(path for path in optional if path.is_file())]
        return cls({path.relative_to(directory).as_posix(): _read(path) for path in paths}, config)

    @classmethod
    def of(cls, files: KeptFiles | str | Path, vocabulary_file: str) -> KeptFiles:
        """Files that were read, or a vocabulary file alone. Raises GLMError where it cannot be read."""
        return files if isinstance(files, KeptFiles) else cls({vocabulary_file: _read(Path(files))})

    def write(self, directory: Path) -> None:
        """Each file appears whole or not at all."""
        for name, content in self.contents.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            json_files.write_whole(path, content)

    def with_config(self, config: dict[str, Any]) -> KeptFiles:
        """A copy with tokenizer_config.json replaced."""
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        return KeptFiles({**self.contents, json_files.CONFIG_FILE: text.encode()}, config)

    def chat_templates(self) -> dict[str, str]:
        """Template sources by name; the usual one is "default".

        A template file overrides tokenizer_config.json's `chat_template`, a text or a list of {name, template}, as in
        transformers. Raises GLMError for a template that is no text.
        """
        entry = self.config.get("chat_template") or {}
        if isinstance(entry, list) and all(isinstance(item, dict) for item in entry):
            entry = {item.get("name"): item.get("template") for item in entry}
        found = dict(entry) if isinstance(entry, dict) else {"default": entry}
        if TEMPLATE_FILE in self.contents:
            found["default"] = self._text(TEMPLATE_FILE)
        named = [name for name in self.contents if name.startswith(TEMPLATE_FOLDER)]
        found |= {Path(name).stem: self._text(name) for name in named}
        if any(not isinstance(text, str) for pair in found.items() for text in pair):
            raise GLMError(f"{json_files.CONFIG_FILE}: chat_template is not text; copy the file again.")
        return found

    def _text(self, name: str) -> str:
        try:
            return self.contents[name].decode("utf-8")
        except UnicodeDecodeError as error:
            raise GLMError(f"{name} is not UTF-8 (byte {error.start}); copy the file again.") from None


def _code_files(config: dict[str, Any]) -> set[str]:
    """The Python files that `auto_map` names. Copied for programs that run them; never run or imported here."""
    entries = config.get("auto_map") or {}
    classes = entries.get("AutoTokenizer") if isinstance(entries, dict) else None
    names = classes if isinstance(classes, list) else [classes]
    modules = (name.partition(".")[0] for name in names if isinstance(name, str))
    return {f"{module}.py" for module in modules if re.fullmatch(r"\w+", module)}


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GLMError(f"{path} cannot be read ({error.strerror}); copy the file there.") from error
    if what := stand_in(content[:HEAD]):
        raise GLMError(f"{path} {what}")
    return content

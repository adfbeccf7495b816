"""Which tokenizer class reads a directory: one entry per family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glm.errors import GLMError
from glm.files.json_files import CONFIG_FILE, read_json
from glm.tokenizers.base import Tokenizer
from glm.tokenizers.chatglm import ChatGLMTokenizer
from glm.tokenizers.glm4 import GLM4JsonTokenizer, GLM4Tokenizer
from glm.tokenizers.glm_chinese import GLMChineseTokenizer
from glm.tokenizers.source import tokenizer_directory


@dataclass(frozen=True)
class TokenizerFormat:
    """A tokenizer's marks in a directory: the `tokenizer_class` values it answers to and its vocabulary file."""

    class_names: tuple[str, ...]
    vocabulary_file: str
    load: Callable[[Path], GLMChineseTokenizer | Tokenizer]


FORMATS: list[TokenizerFormat] = [
    TokenizerFormat(("GLMChineseTokenizer",), GLMChineseTokenizer.vocabulary_file, GLMChineseTokenizer.from_pretrained),
    TokenizerFormat(("ChatGLMTokenizer",), ChatGLMTokenizer.vocabulary_file, ChatGLMTokenizer.from_pretrained),
    TokenizerFormat(("ChatGLM4Tokenizer",), GLM4Tokenizer.vocabulary_file, GLM4Tokenizer.from_pretrained),
    TokenizerFormat(
        ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"),
        GLM4JsonTokenizer.vocabulary_file,
        GLM4JsonTokenizer.from_pretrained,
    ),
]


def find_format(directory: Path) -> TokenizerFormat:
    """The entry for `directory`. Its vocabulary file decides; `tokenizer_class` settles it where two share a file name.

    Raises GLMError where no entry's vocabulary file is there.
    """
    present = [entry for entry in FORMATS if (directory / entry.vocabulary_file).is_file()]
    name = read_json(directory / CONFIG_FILE, missing={}).get("tokenizer_class")
    named = [entry for entry in present if name in entry.class_names]
    if not present:
        wanted = ", ".join(sorted({entry.vocabulary_file for entry in FORMATS}))
        found = f" (its {CONFIG_FILE} names the class {name!r})" if name else ""
        raise GLMError(f"{directory} holds no tokenizer{found}: expected one of the files {wanted}; copy it there.")
    return (named or present)[0]


class GLMTokenizer:
    """Opens the right tokenizer for a model directory or a preset."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path) -> GLMChineseTokenizer | Tokenizer:
        """Raises GLMError, one line, where the directory or its vocabulary file is missing or damaged."""
        directory = tokenizer_directory(name_or_path)
        tokenizer = find_format(directory).load(directory)
        tokenizer.name_or_path = str(name_or_path)
        return tokenizer

"""Which tokenizer class reads a directory: one entry per family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glm.errors import GLMError
from glm.files.foreign_files import require_real
from glm.files.json_files import CONFIG_FILE, read_json
from glm.tokenizers.base import Tokenizer
from glm.tokenizers.chatglm import ChatGLMTokenizer
from glm.tokenizers.chatglm2 import ChatGLM2Tokenizer, ChatGLM3Tokenizer, has_roles, is_sentencepiece
from glm.tokenizers.glm4 import GLM4JsonTokenizer, GLM4Tokenizer, GLM45Tokenizer
from glm.tokenizers.glm_chinese import GLMChineseTokenizer
from glm.tokenizers.source import tokenizer_directory


@dataclass(frozen=True)
class TokenizerFormat:
    """A tokenizer's marks in a directory: the `tokenizer_class` values it answers to and its vocabulary file.

    Where two formats have a file of one name, `reads` says which of them a directory holds.
    """

    class_names: tuple[str, ...]
    vocabulary_file: str
    load: Callable[[Path], GLMChineseTokenizer | Tokenizer]
    reads: Callable[[Path], bool] = lambda directory: True

    def is_in(self, directory: Path) -> bool:
        """Raises GLMError where the files do not tell."""
        return (directory / self.vocabulary_file).is_file() and self.reads(directory)


def _is_chatglm2(directory: Path) -> bool:
    return is_sentencepiece(directory / ChatGLM2Tokenizer.vocabulary_file)


def load_tokenizer_json(directory: Path) -> GLM4JsonTokenizer:
    """GLM-4.5's, where the vocabulary has tokens for the arguments of calls; else GLM-4-0414's."""
    require_real(directory / GLM4JsonTokenizer.vocabulary_file)
    content = (directory / GLM4JsonTokenizer.vocabulary_file).read_bytes()
    return (GLM45Tokenizer if b'"<arg_key>"' in content else GLM4JsonTokenizer).from_pretrained(directory)


FORMATS: list[TokenizerFormat] = [
    TokenizerFormat(("GLMChineseTokenizer",), GLMChineseTokenizer.vocabulary_file, GLMChineseTokenizer.from_pretrained),
    TokenizerFormat(("ChatGLMTokenizer",), ChatGLMTokenizer.vocabulary_file, ChatGLMTokenizer.from_pretrained),
    TokenizerFormat(
        ("ChatGLMTokenizer",),
        ChatGLM2Tokenizer.vocabulary_file,
        ChatGLM2Tokenizer.from_pretrained,
        lambda directory: _is_chatglm2(directory) and not has_roles(directory),
    ),
    TokenizerFormat(
        ("ChatGLMTokenizer",),
        ChatGLM3Tokenizer.vocabulary_file,
        ChatGLM3Tokenizer.from_pretrained,
        lambda directory: _is_chatglm2(directory) and has_roles(directory),
    ),
    TokenizerFormat(
        ("ChatGLM4Tokenizer",),
        GLM4Tokenizer.vocabulary_file,
        GLM4Tokenizer.from_pretrained,
        lambda directory: not _is_chatglm2(directory),
    ),
    TokenizerFormat(
        ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"),
        GLM4JsonTokenizer.vocabulary_file,
        load_tokenizer_json,
    ),
]


def find_format(directory: Path) -> TokenizerFormat:
    """The entry for `directory`. Its vocabulary file decides; `tokenizer_class` settles it where two are there.

    Raises GLMError where no entry's vocabulary file is there, or it may be one's or another's.
    """
    present = [entry for entry in FORMATS if entry.is_in(directory)]
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

"""What tokenizers over a sentencepiece model share: ChatGLM-6B's, and that of ChatGLM2 and 3."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from glm.errors import GLMError
from glm.tokenizers.base import Tokenizer
from glm.tokenizers.kept_files import KeptFiles
from glm.tokenizers.token_bytes import sentencepiece_bytes


class SentencePieceTokenizer(Tokenizer):
    """Texts as pieces of a sentencepiece model. Raises GLMError where the vocabulary file is none."""

    def __init__(self, files: KeptFiles | str | Path, **config):
        super().__init__(files, **config)
        model = self._files.contents[self.vocabulary_file]
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise GLMError(f"not a sentencepiece model ({len(model)} bytes)") from error

    @property
    def vocab_size(self) -> int:
        return self._pieces.GetPieceSize()

    def _encode_text(self, text: str) -> list[int]:
        return self._pieces.EncodeAsIds(text)

    def _decode_run(self, ids: list[int]) -> str:
        return self._pieces.DecodeIds(ids) if ids else ""

    def _piece_id(self, piece: str) -> int | None:
        index = self._pieces.PieceToId(piece)
        return None if self._pieces.IsUnknown(index) else index

    def _piece(self, index: int) -> str:
        return self._pieces.IdToPiece(index)

    def _piece_bytes(self, index: int) -> bytes:
        return sentencepiece_bytes(self._pieces, index)

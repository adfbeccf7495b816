"""Documents to ids, in order, in one process or several."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process

import numpy as np

from glm.datasets.documents import Document
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.calls import TokenizerCalls

_CHARACTERS, _DOCUMENTS = 1 << 18, 1024  # of a batch, about: what a process is given at a time
_AHEAD = 2  # batches a process, read and not yet written


@dataclass(frozen=True)
class EncodingOptions:
    """How a document becomes ids.

    Attributes:
        tokenizer: directory of a model, or a preset's name.
        append_eos: end each document with the end-of-text token.
        add_special_tokens: put around it what the family's tokenizer puts around a text, [gMASK] <sop> for example.
        split_special_tokens: special tokens that a document spells are text.
    """

    tokenizer: str
    append_eos: bool = False
    add_special_tokens: bool = False
    split_special_tokens: bool = False


@dataclass(frozen=True)
class Encoded:
    """Documents of one key as ids; those without any are left out.

    Attributes:
        ids: of all of them, one behind another.
        lengths: of each.
        empty: how many were left out.
        bytes: of their texts in UTF-8.
    """

    ids: np.ndarray
    lengths: np.ndarray
    empty: int
    bytes: int


class DocumentEncoder:
    """Ids of documents. `dtype` is that of the ids."""

    def __init__(self, tokenizer: TokenizerCalls, options: EncodingOptions, dtype: np.dtype):
        self._tokenizer, self._options, self._dtype = tokenizer, options, dtype
        self._frame = tokenizer.build_inputs_with_special_tokens if options.add_special_tokens else lambda ids: ids
        # GLM's own frame, [CLS] … <|endoftext|>, has the end-of-text token already.
        ended = self._frame([])[-1:] == [tokenizer.eos_token_id]
        self._end = [tokenizer.eos_token_id] if options.append_eos and not ended else []

    def encode(self, documents: Sequence[Document]) -> list[Encoded]:
        """Of each key. Raises GLMError, naming the document, where the tokenizer refuses it."""
        return [self._encode_key(documents, key) for key in range(len(documents[0].texts))]

    def _encode_key(self, documents: Sequence[Document], key: int) -> Encoded:
        ids: list[int] = []
        lengths = []
        for document in documents:
            before = len(ids)
            ids += self._ids(document, document.texts[key])
            if len(ids) > before:
                lengths.append(len(ids) - before)
        empty = len(documents) - len(lengths)
        size = sum(len(document.texts[key].encode("utf-8", "surrogatepass")) for document in documents)
        return Encoded(np.array(ids, self._dtype), np.array(lengths, np.int64), empty, size)

    def _ids(self, document: Document, text: str) -> list[int]:
        try:
            ids = self._tokenizer.text_ids(text, self._options.split_special_tokens)
        except GLMError as error:
            raise GLMError(f"{document.place}: {error}") from None
        return [*self._frame(ids), *self._end] if ids else ids


def encoded(
    documents: Iterable[Document], encoder: DocumentEncoder, options: EncodingOptions, dtype: np.dtype, workers: int
) -> Iterator[list[Encoded]]:
    """Batches of documents as ids, of each key, in the order of the documents.

    Args:
        encoder: does the work where `workers` is 1; more have their own, in processes of their own.

    Raises:
        GLMError: as `DocumentEncoder.encode`, and where a process has ended.
    """
    if workers == 1:
        yield from map(encoder.encode, _batches(documents))
        return
    # A process that is spawned shares no locks or threads of this one.
    start = (options, dtype)
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, start) as pool:
        waiting: deque[Future] = deque()
        try:
            for batch in _batches(documents):
                waiting.append(pool.submit(_encode_in_worker, batch))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            reason = "it was killed, or the machine is out of memory"
            raise GLMError(f"one of {workers} worker processes has ended ({reason}): pass fewer --workers") from None
        finally:
            for future in waiting:
                future.cancel()


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, document.texts))
        if size >= _CHARACTERS or len(batch) == _DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_encoder: DocumentEncoder  # of a worker process


def _start_worker(options: EncodingOptions, dtype: np.dtype) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears of Ctrl-C, and ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _encoder = DocumentEncoder(GLMTokenizer.from_pretrained(options.tokenizer), options, dtype)


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, which would wait for work forever."""
    connection.wait([parent_process().sentinel])
    os._exit(1)


def _encode_in_worker(documents: list[Document]) -> list[Encoded]:
    return _encoder.encode(documents)

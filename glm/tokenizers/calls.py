"""A tokenizer as a function, as in Hugging Face's and PaddleNLP's libraries: texts in, what the model takes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any, ClassVar

import numpy as np

from glm.errors import UsageError
from glm.tokenizers.batch_encoding import (
    PADDED,
    BatchEncoding,
    Row,
    as_lists,
    as_plain,
    check_tensors,
    collated,
    pad_rows,
    padding_strategy,
)

Pair = tuple[str, str | None]
Framed = tuple[list[int], list[int]]  # ids and token types of a row
_TRUNCATIONS = {
    True: "longest_first",
    False: None,
    None: None,
    "do_not_truncate": None,
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}
# What the libraries have beside a call's arguments, and what it must be: the value at which it does nothing.
_NEUTRAL = {
    "is_split_into_words": False,
    "return_length": False,
    "return_offsets_mapping": False,
    "return_overflowing_tokens": False,
    "return_special_tokens_mask": False,
    "text_pair_target": None,
    "text_target": None,
}
_WITHOUT_EFFECT = ("stride", "verbose")
# Longer than any text: what files say whose model sets no limit.
_NO_LIMIT = 10**9
# English punctuation that Hugging Face's clean-up moves to the word before it.
_CLEAN_UP = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


class TokenizerCalls(ABC):
    """`__call__`, `encode`, `decode` and their like, over a tokenizer's `text_ids` and `text_of`.

    Class attributes:
        padding_side, truncation_side: where a batch is filled up, and where a long text is cut.
        model_input_names: what a call gives.
        pad_adds: what `pad` makes where an encoding lacks it.
        decode_skips: whether `decode` leaves special tokens out if nobody says.
    """

    padding_side: str = "right"
    truncation_side: str = "right"
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    pad_adds: ClassVar[Sequence[str]] = ("attention_mask", "position_ids")
    decode_skips: ClassVar[bool] = False
    model_max_length: int = _NO_LIMIT

    @abstractmethod
    def text_ids(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """Ids of `text`; none are put around it.

        A special token written in the text becomes that token. With `split_special_tokens` it is text like any other:
        use it for what a user typed.
        """

    @abstractmethod
    def text_of(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`. Ids the vocabulary lacks are dropped: a model's embedding is often padded beyond it."""

    @abstractmethod
    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None):
        """Ids of a text, or of two, with the tokens that the family's own tokenizer puts around them."""

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        text_pair: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_position_ids: bool | None = None,
        return_token_type_ids: bool | None = None,
        split_special_tokens: bool = False,
        **others,
    ) -> BatchEncoding:
        """Ids of a text, of a pair, or of a list of either, and what the model needs with them.

        Args:
            text, text_pair: a text, or a list; a list may hold pairs.
            add_special_tokens: put the family's own tokens around, [gMASK] <sop> for example.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second", or False. A max_length without padding
                cuts as well, as in both libraries.
            max_length: most tokens per row, those around the text included.
            return_tensors: "pd" for Paddle tensors, "np" for numpy arrays, int64; a single text has an axis of rows
                then. None gives lists.
            return_attention_mask, return_position_ids, return_token_type_ids: what else is wanted; what the family's
                own tokenizer gives unless said.
            split_special_tokens: special tokens that a text spells are text.
            others: options of the libraries that are not implemented, at the value at which they do nothing.

        Returns:
            input_ids [B, T]; attention_mask [B, T], 1 for real tokens ([B, 1, T, T], 1 = visible, of ChatGLM-6B);
            position_ids of the families whose tokenizer gives them: [B, T], of ChatGLM-6B [B, 2, T].

        Raises:
            UsageError: something else than texts, an option that there is not, or a value that one does not have.
        """
        check_tensors(return_tensors)
        _check_others(others)
        pairs, batched = _pairs(text, text_pair)
        strategy, cut = padding_strategy(padding), self._cut_of(truncation, max_length, padding)
        limit = max_length if max_length is not None else self.model_max_length
        rows = [
            self._row_ids(pair, add_special_tokens, cut, None if limit >= _NO_LIMIT else limit, split_special_tokens)
            for pair in pairs
        ]
        wanted = {
            "attention_mask": return_attention_mask,
            "position_ids": return_position_ids,
            "token_type_ids": return_token_type_ids,
        }
        options = (strategy, max_length, pad_to_multiple_of, padding_side)
        return self._batch(rows, batched, wanted, options, return_tensors)

    def encode(self, text: str, text_pair: str | None = None, add_special_tokens: bool = True, **options) -> list[int]:
        """The `input_ids` of a call; arguments as there."""
        return self(text, text_pair, add_special_tokens, **options)["input_ids"]

    def encode_plus(self, text: str, text_pair: str | None = None, **options) -> BatchEncoding:
        """A call."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence, **options) -> BatchEncoding:
        """A call with a list."""
        return self(list(batch_text_or_text_pairs), **options)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text as they are written in the vocabulary."""
        return self.convert_ids_to_tokens(self.encode(text, pair, add_special_tokens))

    def decode(
        self, token_ids, skip_special_tokens: bool | None = None, clean_up_tokenization_spaces: bool = False
    ) -> str | list[str]:
        """Text of ids, or texts of several rows.

        Args:
            token_ids: whole numbers, a list, a numpy array or a Paddle tensor.
            skip_special_tokens: leave special tokens out. If not given they stand in the text, but in ChatGLM-6B's,
                whose own tokenizer never shows them.
            clean_up_tokenization_spaces: take the blank before English punctuation away.
        """
        ids = as_lists(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        skip = self.decode_skips if skip_special_tokens is None else skip_special_tokens
        text = self.text_of(ids if isinstance(ids, list) else [ids], skip)
        return _cleaned(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences, skip_special_tokens: bool | None = None, **options) -> list[str]:
        """Texts of rows of ids; arguments as in `decode`."""
        return [self.decode(row, skip_special_tokens, **options) for row in as_lists(sequences)]

    def pad(
        self,
        encoded_inputs,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchEncoding:
        """A batch of encodings (a list of them, or one that holds lists) filled up to one length.

        Masks and positions are made where they are missing, unless return_attention_mask is False. Fields that no call
        gives, such as labels, are left as they are.
        """
        check_tensors(return_tensors)
        strategy, (rows, batched) = padding_strategy(padding), _rows(encoded_inputs)
        makers = {"attention_mask": self._attention_mask, "position_ids": self._position_ids}
        missing = [name for name in self.pad_adds if name in self.model_input_names and strategy != "do_not_pad"]
        for row in rows if return_attention_mask is not False else ():
            row.update({n: np.array(makers[n](row["input_ids"].tolist())) for n in missing if n not in row})
        wanted = strategy, max_length, pad_to_multiple_of, padding_side
        return collated(self._padded(rows, *wanted), batched, return_tensors)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many tokens a call puts around a text, or around two."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    def create_token_type_ids_from_sequences(self, token_ids_0: list[int], token_ids_1: list[int] | None = None):
        """0 for each token of a framed text, 1 for what a second one adds."""
        first = len(self.build_inputs_with_special_tokens(token_ids_0))
        both = first if token_ids_1 is None else len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))
        return [0] * first + [1] * (both - first)

    def _row_ids(self, pair: Pair, frame: bool, cut: str | None, limit: int | None, split: bool) -> Framed:
        """Ids of a text or a pair, and their token types."""
        parts = [self.text_ids(text, split) for text in pair if text is not None]
        if cut and limit is not None:
            room = limit - (self.num_special_tokens_to_add(len(parts) > 1) if frame else 0)
            parts = self._cut(parts, max(0, room), cut)
        if frame:
            return self.build_inputs_with_special_tokens(*parts), self.create_token_type_ids_from_sequences(*parts)
        return [i for part in parts for i in part], [kind for kind, part in enumerate(parts) for _ in part]

    @staticmethod
    def _cut_of(truncation: bool | str | None, max_length: int | None, padding: bool | str) -> str | None:
        """How to cut: one of `_TRUNCATIONS`."""
        if not isinstance(truncation, (bool, str, type(None))) or truncation not in _TRUNCATIONS:
            raise UsageError(f"truncation is {truncation!r}, and must be one of {', '.join(map(repr, _TRUNCATIONS))}")
        if truncation is None and max_length is not None and padding_strategy(padding) == "do_not_pad":
            return "longest_first"
        return _TRUNCATIONS[truncation]

    def _cut(self, parts: list[list[int]], room: int, cut: str) -> list[list[int]]:
        """The parts with `room` ids together; "longest_first" takes one after the other from the longer."""
        parts = list(parts)
        while (excess := sum(map(len, parts)) - room) > 0:
            place = _PLACES[cut] if cut in _PLACES else max(range(len(parts)), key=lambda i: (len(parts[i]), i))
            if place >= len(parts) or not parts[place]:
                raise UsageError(f"truncation '{cut}' has nothing to cut: {room} tokens have no room for this text")
            others = [len(part) for i, part in enumerate(parts) if i != place]
            # As many at once as the longer part is longer by, at least one.
            ahead = max(1, len(parts[place]) - max(others, default=0)) if cut == "longest_first" and others else excess
            size = max(0, len(parts[place]) - min(excess, ahead))
            left = self.truncation_side == "left"
            parts[place] = parts[place][len(parts[place]) - size :] if left else parts[place][:size]
        return parts

    def _batch(self, framed: list[Framed], batched: bool, wanted, options, return_tensors) -> BatchEncoding:
        bounded = options[0] != "do_not_pad" or options[1] is not None
        rows = [self._row(ids, types, wanted, bounded) for ids, types in framed]
        return collated(self._padded(rows, *options), batched, return_tensors)

    def _padded(self, rows: list[Row], strategy: str, max_length, multiple, side: str | None) -> list[Row]:
        if strategy == "do_not_pad" or not rows:
            return rows
        width = max_length if strategy == "max_length" else None
        if strategy == "max_length" and width is None:
            width = self.model_max_length if self.model_max_length < _NO_LIMIT else None
        return pad_rows(rows, width, self.pad_token_id, side or self.padding_side, multiple)

    def _row(self, ids: list[int], types: list[int], wanted: dict[str, bool | None], bounded: bool) -> Row:
        """A row's fields: those the family's own tokenizer gives, and those that were asked for.

        Args:
            bounded: whether the batch is padded or has a max_length.
        """
        given = {name: self._gives(name, bounded) if asked is None else asked for name, asked in wanted.items()}
        made = {
            "position_ids": self._position_ids,
            "attention_mask": self._attention_mask,
            "token_type_ids": lambda _: types,
        }
        row = {"input_ids": ids} | {name: make(ids) for name, make in made.items() if given[name]}
        return {name: np.array(value, dtype="int64") for name, value in row.items()}

    def _gives(self, name: str, bounded: bool) -> bool:
        return name in self.model_input_names

    def _attention_mask(self, ids: list[int]) -> Any:
        return [1] * len(ids)

    def _position_ids(self, ids: list[int]) -> Any:
        return list(range(len(ids)))


_OPTIONS = list(signature(TokenizerCalls.__call__).parameters)[1:-1]
_PLACES = {"only_first": 0, "only_second": 1}


def _pairs(text, text_pair) -> tuple[list[Pair], bool]:
    """(text, second text or None) of each row, and whether it is a batch."""
    if isinstance(text, str):
        if text_pair is not None and not isinstance(text_pair, str):
            raise UsageError(f"text_pair is a {type(text_pair).__name__} beside one text: give a text")
        return [(text, text_pair)], False
    if not isinstance(text, (list, tuple)):
        raise UsageError(f"a tokenizer takes a text or a list of texts, and got a {type(text).__name__}")
    if text_pair is not None and (isinstance(text_pair, str) or len(text_pair) != len(text)):
        raise UsageError(f"text has {len(text)} rows, and text_pair must be a list of as many")
    seconds = text_pair if text_pair is not None else [None] * len(text)
    rows = [
        (first, second) if second is not None else _pair(first) for first, second in zip(text, seconds, strict=True)
    ]
    for row in rows:
        if not isinstance(row[0], str) or not isinstance(row[1], (str, type(None))):
            raise UsageError(f"a row of the batch is {row[0]!r:.60}: give a text or a pair of texts")
    return rows, True


def _rows(encodings) -> tuple[list[dict[str, Any]], bool]:
    """A dictionary of fields for each row of one encoding or of several, and whether it is a batch."""
    if isinstance(encodings, Mapping):
        first = as_lists(encodings["input_ids"])
        batched = bool(first) and isinstance(first[0], list)
        columns = {name: as_plain(value) if batched else [as_plain(value)] for name, value in encodings.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    else:
        batched, rows = True, [dict(row) for row in encodings]
    return [
        {name: np.array(as_lists(v), dtype="int64") if name in PADDED else v for name, v in row.items()} for row in rows
    ], batched


def _check_others(others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        if name in _NEUTRAL and value not in (_NEUTRAL[name], None):
            raise UsageError(f"{name} {value!r:.40} is not implemented: leave it out")
        if name not in _NEUTRAL and name not in _WITHOUT_EFFECT:
            near = get_close_matches(name, _OPTIONS, 1)
            raise UsageError(f"a tokenizer's call has no option '{name}'{f': did you mean {near[0]}?' if near else ''}")


def _pair(row) -> Pair:
    return tuple(row) if isinstance(row, (list, tuple)) and len(row) == 2 else (row, None)


def _cleaned(text: str) -> str:
    """Hugging Face's `clean_up_tokenization`."""
    text = text.replace(" ' ", "'")
    for mark in _CLEAN_UP:
        text = text.replace(mark, mark[1:])
    return text

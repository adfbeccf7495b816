"""Guided decoding: texts held to a grammar (glm/encoding/json_schema.py) by llguidance. Imports no framework.

llguidance walks a trie of the vocabulary's bytes with an Earley parser, so a step costs tens of microseconds and a
grammar is ready in milliseconds (Moskal et al., https://guidance-ai.github.io/llguidance/llg-go-brrr).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from glm.errors import GLMError, UsageError

_NEEDED = tuple('{}[]":,-.0123456789')  # what JSON cannot be written without
_NOTHING_FITS = "no token of the vocabulary fits"
KEPT = 8  # grammars that are not compiled again
PATIENCE = 10.0  # seconds that a grammar may take to compile; its work is bounded besides, by llguidance's limits


class GrammarError(UsageError):
    """A grammar that cannot be compiled."""


class _Vocabulary:
    """What `llguidance.TokenizerWrapper` asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int, encode: Callable[[str], list[int]]):
        self.tokens, self.special_token_ids, self.eos_token_id, self._encode = tokens, special, end, encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class Grammars:
    """Compiles grammars for the vocabulary of a model.

    Args:
        tokenizer: of the model; `text_bytes` says what its tokens write.
        stop_token_ids: what may end a text.
        vocab_size: V, columns of the model's logits; those that the tokenizer does not know are never allowed.

    Raises:
        UsageError: llguidance is not installed, or the vocabulary cannot write JSON.

    Example:
        >>> grammars = Grammars(processor.tokenizer, processor.stop_token_ids, runtime.vocab_size)
        >>> request = Request(ids, config, constraint=grammars.constraint(json_grammar({"type": "object"})))
    """

    def __init__(self, tokenizer: Any, stop_token_ids: Sequence[int], vocab_size: int):
        try:
            import llguidance
        except ImportError:
            raise UsageError(
                "guided output needs the package llguidance: pip install -r requirements-serve.txt"
            ) from None
        tokens = tokenizer.text_bytes()[:vocab_size]
        if lacking := [character for character in _NEEDED if character.encode() not in tokens]:
            raise UsageError(f"this model's vocabulary has no token for {' '.join(lacking)}, so it cannot write JSON")
        tokens += [b""] * (vocab_size - len(tokens))
        special = [index for index in tokenizer.all_special_ids if index < vocab_size]
        for index in special:  # llguidance keeps tokens of no bytes out of its trie, the ends of texts among them
            tokens[index] = tokenizer.token_bytes(index)

        def encode(text: str) -> list[int]:
            return tokenizer.text_ids(text, split_special_tokens=True)

        # Where one text alone can follow, llguidance asks how the tokenizer cuts it: sentencepiece adds a blank.
        faithful = b"".join(map(tokenizer.token_bytes, encode("{"))) == b"{"
        self._options = "" if faithful else '%llguidance {"no_forcing": true}\n'
        vocabulary = _Vocabulary(tokens, special, stop_token_ids[0], encode)
        wrapper = llguidance.TokenizerWrapper(vocabulary)
        self.vocab_size, self._ends = vocab_size, np.asarray(stop_token_ids)
        self._tokenizer = llguidance.LLTokenizer(wrapper, eos_token=list(stop_token_ids))
        self._matcher, self._limits = llguidance.LLMatcher, llguidance.LLParserLimits(verbose_errors=False)
        self._compiled = lru_cache(KEPT)(self._compile)  # the texts of one request have one grammar

    def constraint(self, grammar: str) -> GrammarConstraint:
        """What holds one text to a grammar.

        Raises:
            GrammarError: a grammar that is not valid, too large, or not ready after `PATIENCE` seconds.
        """
        return self._compiled(grammar).copy()

    def _compile(self, grammar: str) -> GrammarConstraint:
        text = f"{self._options}{grammar}"

        def compiled() -> tuple[GrammarConstraint, tuple[np.ndarray, str]]:
            matcher = self._matcher(self._tokenizer, text, log_level=0, limits=self._limits)
            constraint = GrammarConstraint(matcher, self.vocab_size, self._ends)
            return constraint, constraint.look()  # the first look takes the longest

        constraint, (_, problem) = _in_time(compiled)
        if problem:
            raise GrammarError(f"texts cannot be held to this schema or grammar: {problem}")
        return constraint


class GrammarConstraint:
    """A `Constraint` by a matcher of llguidance, for one text."""

    def __init__(self, matcher: Any, vocab_size: int, ends: np.ndarray):
        self._matcher, self._vocab_size, self._ends = matcher, vocab_size, ends

    def copy(self) -> GrammarConstraint:
        """One for another text that stands where this one does."""
        return GrammarConstraint(self._matcher.deep_copy(), self._vocab_size, self._ends)

    @property
    def finished(self) -> bool:
        return self._matcher.is_accepting() and self._matcher.is_stopped()

    def allowed(self) -> np.ndarray:
        allowed_V, problem = self.look()
        if problem:
            raise GLMError(f"this text cannot go on as its schema or grammar asks: {problem}")
        return allowed_V

    def look(self) -> tuple[np.ndarray, str]:
        """What may come next, bool [V], and why nothing may, "" if something may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), "uint8")
        allowed_V = np.unpackbits(bits, bitorder="little")[: self._vocab_size].view("bool")
        # Where nothing fits, llguidance allows the end of a text that is not complete.
        stuck = not allowed_V.any() or (allowed_V[self._ends].any() and not self._matcher.is_accepting())
        return allowed_V, _reason(self._matcher) if self._matcher.is_error() else _NOTHING_FITS * stuck

    def advance(self, token: int) -> None:
        if not self._matcher.consume_token(int(token)):
            raise GLMError(f"token {token} was chosen, and the grammar does not allow it ({_reason(self._matcher)})")


def _in_time(compile_it: Callable[[], Any]) -> Any:
    """The result of a call that leaves the interpreter to others while it works, if it is there in time."""
    found: list[Any] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.append(compile_it())
        except Exception as error:  # it belongs to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failed:
        raise failed[0]
    if not found:
        raise GrammarError(f"this schema or grammar was not ready after {PATIENCE:g} s: make it simpler")
    return found[0]


def _reason(matcher: Any) -> str:
    """llguidance's error in one line, without where it is in a grammar that nobody wrote."""
    lines = [line.strip() for line in matcher.get_error().strip().splitlines()] or ["no reason given"]
    first = lines[0].split(": ", 1)[-1] if lines[0].startswith("at ") else lines[0]
    if first.startswith("NoExtension"):  # its name for a grammar that nothing continues
        return _NOTHING_FITS
    details = [line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")]
    return " ".join([first.removeprefix("failed to compile JSON schema: "), *details[:1]])

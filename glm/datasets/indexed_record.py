"""`{prefix}.meta.json`: how an indexed data set was made, beside it, so that a training run can check it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glm.datasets.indexed import beside, without_ending
from glm.errors import GLMError
from glm.files.json_files import read_json
from glm.tokenizers.calls import TokenizerCalls
from glm.tokenizers.fingerprint import fingerprint

RECORD = ".meta.json"
ADDED = ("documents", "empty_documents", "skipped_rows", "tokens", "files")


def read_record(prefix: str | Path) -> dict[str, Any] | None:
    """What stands beside a data set; None beside one that another program made. Raises GLMError where it is damaged."""
    path = beside(without_ending(prefix), RECORD)
    return read_json(path, "make the data anew with preprocess_data.py") if path.exists() else None


def tokenizer_record(tokenizer: TokenizerCalls) -> dict[str, Any]:
    """What is recorded of a tokenizer."""
    return {
        "kind": tokenizer.kind,
        "vocabulary_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "fingerprint": fingerprint(tokenizer),
    }


def require_tokenizer(prefix: str | Path, tokenizer: TokenizerCalls) -> dict[str, Any] | None:
    """The record, if there is one. Raises GLMError where the data was made with another tokenizer than this."""
    record = read_record(prefix)
    if record is None:
        return None
    own, found = tokenizer_record(tokenizer), record.get("tokenizer")
    if not isinstance(found, dict):
        raise GLMError(
            f"{beside(without_ending(prefix), RECORD)} has the tokenizer {found!r}, and must have an object: make the "
            "data anew with preprocess_data.py"
        )
    if found.get("fingerprint") == own["fingerprint"]:
        return record
    theirs, ours = (
        f"{it.get('kind')}, {it.get('vocabulary_size')} ids, {it.get('fingerprint')}" for it in (found, own)
    )
    raise GLMError(f"{prefix} is of another tokenizer ({theirs}) than the model ({ours}): make it with the model's")


def joined(prefixes: Sequence[Path]) -> dict[str, Any] | None:
    """The record of data sets joined in this order; None where one has none.

    Raises:
        GLMError: they were made in different ways.
    """
    records = [read_record(prefix) for prefix in prefixes]
    if None in records:
        return None
    first, *others = records
    for prefix, other in zip(prefixes[1:], others, strict=True):
        for name in first.keys() | other.keys():
            if name not in ADDED and first.get(name) != other.get(name):
                both = f"{other.get(name)} in {prefix}, {first.get(name)} in {prefixes[0]}"
                raise GLMError(f"{name} is {both}: join data that was made in one way")
    return first | {name: sum((record[name] for record in others), first[name]) for name in ADDED}

"""Rows of a data set on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from glm.datasets.readers import Parsed
from glm.errors import GLMError

TIMEOUT_SECONDS = 10
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form "organisation/data set" and not that of a JSON file's path."""
    return _NAME.fullmatch(name) is not None and not name.endswith((".json", ".jsonl"))


def hub_rows(name: str, split_names: Sequence[str]) -> Iterator[Parsed] | None:
    """Rows of the first split of `split_names` that data set `name` has, None where it has none of them.

    With HF_HUB_OFFLINE=1 only the local cache is read. Raises GLMError where the data set cannot be had.
    """
    import datasets
    from huggingface_hub import HfApi, constants

    try:
        # load_dataset alone repeats a failing request for half a minute; one probe answers at once.
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(name, timeout=TIMEOUT_SECONDS)
        splits = datasets.load_dataset(name)
    # The two libraries raise requests', their own and plain OSErrors and ValueErrors here.
    except Exception as error:
        raise GLMError(
            f"data set {name} is no path here and cannot be had from the Hugging Face Hub ({type(error).__name__}); "
            "download its JSON file and pass --data_path FILE."
        ) from error
    found = next((split for split in split_names if split in splits), None)
    return None if found is None else _numbered(name, splits[found])


def _numbered(name: str, rows) -> Iterator[Parsed]:
    return (Parsed(f"{name}, row {number}", row) for number, row in enumerate(rows, 1))

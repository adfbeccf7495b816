"""Rows of a data set on the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from glm.datasets.formats import split_name, without_nulls
from glm.datasets.readers import Parsed
from glm.datasets.splits import Name, Split, choose_names
from glm.errors import GLMError

TIMEOUT_SECONDS = 10
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form "organisation/data set" and not that of a data file's path."""
    return _NAME.fullmatch(name) is not None and not split_name(name)[1]


def hub_rows(name: str, split: Split) -> Iterator[Parsed] | None:
    """Rows of the splits of data set `name` that are called as `split`, None where it has none.

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
    found = [own for own in choose_names(splits, split) if Name.of(own).word]
    return _numbered(name, (row for own in found for row in splits[own])) if found else None


def _numbered(name: str, rows: Iterable) -> Iterator[Parsed]:
    return (Parsed(f"{name}, row {number}", without_nulls(row)) for number, row in enumerate(rows, 1))

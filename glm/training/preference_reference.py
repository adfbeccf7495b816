"""The reference of preference tuning: what training started from, as log-probabilities of all answers.

Full tuning, and a run that goes on from an adapter, leave their start behind. Its log-probabilities are computed once,
before the first step, and kept in the run's directory, where a run that resumes finds them. A new adapter is switched
off instead, as the pairs come (glm/training/preference_trainer.py).
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from glm.api.loading import AdapterPaths, adapter_paths
from glm.cli.console import note
from glm.distributed.processes import digest, from_rank_0
from glm.errors import UsageError
from glm.files.atomic import atomic_write
from glm.files.checksum import sample
from glm.training.preference_rows import PreferencePairs

_ADAPTER_SUFFIXES = (".json", ".pdparams", ".safetensors", ".bin")


def start_of(base: str, lora_path: AdapterPaths) -> str:
    """What tells the model that a run starts from from others.

    Args:
        base: of the model (`RunRecord.base`).
        lora_path: adapters in it.
    """
    paths = [file for folder in adapter_paths(lora_path) for file in sorted(folder.iterdir())]
    return digest(base, *(sample(path) for path in paths if path.suffix in _ADAPTER_SUFFIXES))


class KeptReference:
    """A file of the reference's log-probabilities.

    Args:
        path: of the file.
        start: what tells the reference from others (`start_of`).
        dtype: that it computes in.
    """

    def __init__(self, path: Path, start: str, dtype: str):
        self.path, self.start, self.dtype = path, start, dtype

    def read(self, splits: Mapping[str, PreferencePairs], resumes: bool) -> dict[str, np.ndarray]:
        """What the file has of these splits, [N, 2] float32 each; the first process reads it for all.

        A file of another model, or of other pairs, is passed over with a line.

        Raises:
            UsageError: a run that resumes, and has another model than it started from.
        """
        (text,) = from_rank_0(lambda: [json.dumps(self._found(splits, resumes))])
        found = json.loads(text)
        if isinstance(found, str):
            raise UsageError(found)
        return {name: np.array(sums, "float32").reshape([-1, 2]) for name, sums in found.items()}

    def write(self, splits: Mapping[str, PreferencePairs]) -> None:
        """Keeps the reference of all splits, whole or not at all."""
        arrays = {name: pairs.reference for name, pairs in splits.items()}
        keys = {f"{name}_key": np.array(self._key(pairs)) for name, pairs in splits.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as file:
            np.savez(file, start=np.array(self.start), **arrays, **keys)

    def _found(self, splits: Mapping[str, PreferencePairs], resumes: bool) -> dict[str, list] | str:
        if not self.path.is_file():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            start = str(content["start"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            note(f"{self.path} is damaged ({error}): the reference is computed anew")
            return {}
        if start != self.start and resumes:
            return (
                f"{self.path} is of a run that started from another model or adapter ({start}, now {self.start}), "
                "which is its reference: give it the same --model_name_or_path and --lora_path, or another output_dir"
            )
        if start != self.start:
            note(f"{self.path} is of another model ({start}, now {self.start}): the reference is computed anew")
            return {}
        return {name: content[name].tolist() for name, pairs in splits.items() if self._fits(content, name, pairs)}

    def _fits(self, content: Mapping[str, np.ndarray], name: str, pairs: PreferencePairs) -> bool:
        if f"{name}_key" not in content:
            return False
        whole = name in content and content[name].shape == (len(pairs), 2)
        fits = whole and str(content[f"{name}_key"]) == self._key(pairs)
        if not fits:
            note(f"{self.path} is of other {name} pairs, or another dtype: their reference is computed anew")
        return fits

    def _key(self, pairs: PreferencePairs) -> str:
        return f"{pairs.digest} {self.dtype}"

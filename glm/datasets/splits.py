"""Which files of a folder are for training, evaluation and test, by the names that people and the Hub give them.

`train-00000-of-00002.jsonl`, `dev_zh.json`, `my-train.v2.json`, `validation/a.json`: a split's word may stand anywhere
in the name of a file or of the folder that it is in, in any case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glm.datasets.formats import JSON, holds_rows, is_data, natural, nothing_in, rows_in, split_name
from glm.errors import GLMError

Split = Literal["train", "dev", "test"]
# The words of a split, the best one first.
WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "训练"),
    "dev": ("dev", "validation", "valid", "val", "eval", "evaluation", "验证"),
    "test": ("test", "testing", "测试"),
}
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_FILLERS = ("set", "data", "dataset", "split", "file", "集", "数据", "数据集")  # "trainset", "train_data"
_SHARD = re.compile(r"[-_.](\d+)[-_]?of[-_]?(\d+)$", re.IGNORECASE)
# Words of letters; a capital inside begins a new one.
_LETTERS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[\u4e00-\u9fff]+")
# Chinese has no gaps between words: the split's stands at either end of 新闻训练数据, 训练集新闻.
_CHINESE = re.compile(r"(.+?)(训练|验证|测试)(集|数据|数据集)?|(训练|验证|测试)(?:集|数据|数据集)(.+)")
_COPY = re.compile(r"\s*\(\d+\)$")  # what browsers add to the name of a second download


@dataclass(frozen=True)
class Name:
    """What a name says.

    Attributes:
        splits: that its words name; more than one contradict each other.
        word: the first word that names a split, "" for none.
        rest: the other words, without numbers.
        shard: number and count of a part of several.
    """

    splits: frozenset[str]
    word: str
    rest: tuple[str, ...]
    shard: tuple[int, int] | None = None

    @classmethod
    def of(cls, stem: str) -> Name:
        """Of a file without its endings, or of a folder."""
        part = _SHARD.search(stem)
        words = [_bare(word.lower()) for word in _words(stem[: part.start()] if part else stem)]
        found = [word for word in words if word in _SPLIT_OF]
        rest = tuple(word for word in words if word and word not in _SPLIT_OF)
        shard = (int(part[1]), int(part[2])) if part else None
        return cls(frozenset(_SPLIT_OF[word] for word in found), found[0] if found else "", rest, shard)


def _words(stem: str) -> Iterable[str]:
    for word in _LETTERS.findall(stem):
        found = _CHINESE.fullmatch(word)
        yield from (part for part in found.groups() if part) if found else (word,)
    if _COPY.search(stem):
        yield "copy"


def _bare(word: str) -> str:
    """A word without what says that it is data: train of trainset, nothing of dataset."""
    if word in _FILLERS:
        return ""
    return next((bare for filler in _FILLERS if (bare := word.removesuffix(filler)) in _SPLIT_OF), word)


@dataclass(frozen=True)
class Chosen:
    """The files of a split, in order, and what there is to say of those beside them that are not read."""

    files: list[Path]
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The files in words; of many the first and the last."""
        names = list(map(str, self.files))
        return ", ".join(names) if len(names) < 5 else f"{names[0]} … {names[-1]} ({len(names)} files)"


def choose_names(names: Iterable[str], split: Split) -> list[str]:
    """Those of a data set's own split names that stand for `split`: `train_sft` for train, say."""
    known = {name: Name.of(name) for name in names}
    return _choose({name: parsed for name, parsed in known.items() if len(parsed.splits) == 1}, split)[0]


def choose_files(path: Path, split: Split) -> Chosen:
    """The files of `path` that hold `split`, none for a dev or test split that is not there.

    A file given by its name is trained on, whatever it is called; what is called as it is but for the split's word is
    its dev or test split.

    Raises:
        GLMError: no data, nothing to train on, or a part of several that is missing.
    """
    if path.is_file():
        return _given(path) if split == "train" else _beside(path, split)
    every = {file: _name_in(path, file) for file in folder_files(path)}
    known = {file: name for file, name in every.items() if len(name.splits) < 2}
    unclear = [file for file in every if file not in known]
    chosen, left = _choose(_once(known), split)
    left += [file for file in known if file not in chosen and file not in left and _split_of(known[file]) == split]
    if not chosen and split == "train":
        both = f", where {_listed(path, unclear)} names two splits" if unclear else ""
        there = _listed(path, list(every))
        raise GLMError(f"{path} holds nothing to train on, only {there}{both}; name the training file train.json.")
    _require_parts(chosen, known)
    return Chosen(chosen, tuple(_notes(path, split, known, chosen, left, unclear)))


def folder_files(path: Path) -> list[Path]:
    """The data files in a folder and in its folders that are called as splits, in natural order.

    A folder `data` is looked into where there is nothing beside it, as in repositories of the Hub.

    Raises:
        GLMError: there are none.
    """
    found = rows_in(path)
    for folder in sorted((entry for entry in path.iterdir() if entry.is_dir()), key=natural):
        if Name.of(folder.name).word:
            inside = (file for file in folder.rglob("*") if is_data(file) and not _is_hidden(folder, file))
            found += sorted(inside, key=natural)
    if not found and (path / "data").is_dir():
        return folder_files(path / "data")
    if not found:
        raise nothing_in(path)
    return found


def _is_hidden(folder: Path, file: Path) -> bool:
    """Whether a file lies in a folder like .cache or .ipynb_checkpoints."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _name_in(folder: Path, file: Path) -> Name:
    """What a file is called, and which split the folders between say it is."""
    own = Name.of(split_name(file.name)[0])
    outer = [Name.of(part) for part in file.parent.relative_to(folder).parts]
    words = [name.word for name in outer if name.word]
    if not words:
        return own
    # In a folder of a split all files are alike, and need not be called so.
    return Name(own.splits.union(*(name.splits for name in outer)), words[0], (), own.shard)


def _choose(known: dict, split: Split) -> tuple[list, list]:
    """What is taken for `split`, and what else is called so; keys of `known`, which is in order."""
    for words in (WORDS[split], WORDS["test"] if split == "dev" else ()):
        called = [key for key, name in known.items() if name.word in words]
        word = next((word for word in words if any(known[key].word == word for key in called)), None)
        best = [key for key in called if known[key].word == word]
        # train.json is the training data where there is a train_small.json as well.
        exact = [key for key in best if not known[key].rest] or best
        taken = [key for key in exact if _is_json(key)] or exact
        if taken:
            return taken, [key for key in called if key not in taken]
    unnamed = [key for key, name in known.items() if not name.word]
    return (unnamed, []) if split == "train" else ([], [])


def _once(known: dict[Path, Name]) -> dict[Path, Name]:
    """Of files with one name and several endings, train.json and train.json.gz, one: they hold the same rows."""
    by_ease = sorted(known, key=lambda file: (not _is_json(file), len(file.name)))
    first = {(file.parent, split_name(file.name)[0]): file for file in reversed(by_ease)}
    return {file: name for file, name in known.items() if file in first.values()}


def _split_of(name: Name) -> str | None:
    return _SPLIT_OF.get(name.word)


def _is_json(key: Path | str) -> bool:
    return split_name(Path(key).name)[1] in JSON


def _require_parts(chosen: Sequence[Path], known: dict[Path, Name]) -> None:
    """Raises GLMError where a file `train-00000-of-00002` is there and `train-00001-of-00002` is not."""
    series: dict[tuple, set[int]] = {}
    for file in chosen:
        if shard := known[file].shard:
            series.setdefault((file.parent, known[file].word, known[file].rest, shard[1]), set()).add(shard[0])
    for (folder, word, _, count), numbers in series.items():
        first = 1 if count in numbers and 0 not in numbers else 0
        if missing := sorted(set(range(first, first + count)) - numbers):
            parts = ", ".join(f"{number:05d}-of-{count:05d}" for number in missing[:5])
            raise GLMError(
                f"{folder} lacks the parts {parts} of {word or 'its'} data: download them, or rename the others"
            )


def _notes(
    folder: Path, split: Split, known: dict[Path, Name], chosen: list[Path], left: list[Path], unclear: list[Path]
) -> Iterable[str]:
    if left:
        yield f"not read, though called {split} data as well: {_listed(folder, left)}"
    if unclear and split == "train":
        yield f"not read, because two splits are in its name: {_listed(folder, unclear)}"
    unnamed = [file for file, name in known.items() if not name.word and file not in chosen]
    if unnamed and split == "train":
        yield f"not read, because no split is in its name: {_listed(folder, unnamed)}"
    if split == "dev" and chosen and known[chosen[0]].word in WORDS["test"]:
        yield "there is no dev or validation data, so the test data stands for it"


def _listed(folder: Path, files: Sequence[Path]) -> str:
    names = [str(file.relative_to(folder)) for file in files]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _given(path: Path) -> Chosen:
    shard = Name.of(split_name(path.name)[0]).shard
    part_of = shard is not None and shard[1] > 1
    return Chosen([path], (f"one of {shard[1]} parts, pass the folder to train on all",) if part_of else ())


def _beside(path: Path, split: Split) -> Chosen:
    """The dev or test split of a training file: dev_zh.json of train_zh.json."""
    own = Name.of(split_name(path.name)[0])
    if own.splits != {"train"}:
        return Chosen([])
    beside = sorted((file for file in path.parent.iterdir() if holds_rows(file.name) and file.is_file()), key=natural)
    known = {file: Name.of(split_name(file.name)[0]) for file in beside}
    alike = {file: name for file, name in known.items() if name.rest == own.rest and len(name.splits) == 1}
    chosen = _choose(_once(alike), split)[0]
    _require_parts(chosen, known)
    return Chosen(chosen)

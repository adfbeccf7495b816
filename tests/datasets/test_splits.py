"""Which file holds which split, as people and the Hub name them; no evaluation row is ever trained."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest
from shared_files import SHARED

from glm.datasets import load_examples, read_rows
from glm.datasets.hub import _numbered
from glm.datasets.splits import choose_files, choose_names
from glm.errors import GLMError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def rows_of(name: str) -> bytes:
    return json.dumps({"context": "c", "answer": name, "question": "q"}, ensure_ascii=False).encode()


def folder(where: Path, *names: str) -> Path:
    """Each file holds one row, whose answer is the file's name."""
    for name in names:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(rows_of(name))
    return where


def split(path: Path, name: str) -> list[str]:
    loaded = load_examples("dureader_qg", name, str(path))
    found = loaded.examples if loaded else []
    return [example.source.removeprefix("答案：").partition("，")[0] for example in found]


SHARDS = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
FOLDERS = {
    "the Hub's shards": (SHARDS, ["validation-00000-of-00001.jsonl"], ["test-00000-of-00001.jsonl"]),
    "data and val": (["data.json"], ["val.json"], []),
    "languages": (["train_zh.json"], ["dev_zh.json"], ["test_zh.json"]),
    "split folders": (["train/a.json", "train/b.jsonl"], ["dev/a.json"], ["test/a.json"]),
    "split folders, other names": (["training/x.json"], ["validation/x.json"], []),
    "folders in folders": (["train/zh/x.json"], ["valid/zh/x.json"], []),
    "val folder": (["train/x.json"], ["val/x.json"], []),
    "eval folder": (["train/x.json"], ["eval/x.json"], []),
    "evaluation folder beside a file": (["train.json"], ["evaluation/x.json"], []),
    "capitals": (["Train.JSON"], ["Dev.json"], ["TEST.jsonl"]),
    "capital folders": (["TRAIN/x.json"], ["Validation/x.json"], []),
    "camel case": (["myTrain.json"], ["myDev.json"], []),
    "words around": (["my-train.json"], ["my-val.json"], ["my-test.json"]),
    "versions": (["train.v2.json"], ["dev.v2.json"], []),
    "sets": (["trainset.json"], ["devset.json"], ["testset.json"]),
    "numbers": (["train2k.json"], ["dev1k.json"], []),
    "data words": (["train_data.jsonl"], ["eval_data.jsonl"], ["test_data.jsonl"]),
    "BELLE": (["train_2M_CN.json"], ["dev1k.json"], []),
    "Chinese": (["训练集.json"], ["验证集.json"], ["测试集.json"]),
    "Chinese in a longer name": (["新闻训练数据.json"], ["新闻验证集.json"], ["测试集新闻.json"]),
    "words that only look like splits": (["contest.jsonl", "latest.json", "restraint.json"], [], []),
    "many parts in order": ([f"train_{n}.json" for n in (1, 2, 10)], [], []),
    "other endings": (["train.ndjson"], ["dev.jsonlines"], []),
    "a repository's data folder": (["data/train-00000-of-00001.jsonl"], ["data/validation-00000-of-00001.jsonl"], []),
}
NO_ROWS = ["dataset_infos.json", "README.md", "config.json", ".train.json", "._train.json", "train.json.lock"]
NO_ROWS += [
    "train/.ipynb_checkpoints/a-checkpoint.json",
    "dev/.cache/x.json",
    "dataset_info.json",
    "state.json",
    "train/.cache/x.lock",
    "eval_results.json",
    "trainer_state.json",
]


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(tmp_path, case):
    train, dev, test = FOLDERS[case]
    folder(tmp_path, *train, *dev, *test)
    for name in NO_ROWS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"builder": 1}')
    assert split(tmp_path, "train") == train
    assert split(tmp_path, "dev") == (dev or test)
    assert split(tmp_path, "test") == test


def test_real_names(tmp_path):
    folder(tmp_path, "adgen.dev.jsonl", "belle.dev1k.jsonl", "dureader_qg.dev.jsonl", "alpaca_format.json")
    assert split(tmp_path, "train") == ["alpaca_format.json"]
    assert split(tmp_path, "dev") == ["adgen.dev.jsonl", "belle.dev1k.jsonl", "dureader_qg.dev.jsonl"]


def test_the_real_folder():
    if not (path := SHARED / "real" / "datasets").is_dir():
        pytest.skip(f"the real data is not at {path}")
    assert len(load_examples("alpaca", "train", str(path)).examples) == 175


def test_what_is_not_read_is_said(tmp_path):
    folder(tmp_path, "train.json", "train_small.json", "extra.json", "train_dev.json", "valid.json", "val.json")
    train = load_examples("dureader_qg", "train", str(tmp_path)).source_description
    assert train == (
        f"{tmp_path}/train.json (1 rows); not read, though called train data as well: train_small.json; not read, "
        "because two splits are in its name: train_dev.json; not read, because no split is in its name: extra.json"
    )
    dev = load_examples("dureader_qg", "dev", str(tmp_path)).source_description
    assert dev == f"{tmp_path}/valid.json (1 rows); not read, though called dev data as well: val.json"


def test_the_same_rows_again_are_read_once_and_said(tmp_path):
    """One name with several endings, and a browser's second download."""
    folder(tmp_path, "train.json", "train.jsonl", "train (1).json", "dev.json")
    (tmp_path / "train.json.gz").write_bytes(gzip.compress(rows_of("x")))
    assert split(tmp_path, "train") == split(tmp_path / "train.json", "train") == ["train.json"]
    said = load_examples("dureader_qg", "train", str(tmp_path)).source_description
    assert said.endswith("called train data as well: train (1).json, train.json.gz, train.jsonl")
    (tmp_path / "dev.jsonl").write_bytes(rows_of("dev.jsonl"))
    assert split(tmp_path / "train.json", "dev") == ["dev.json"]


def test_a_link_to_nothing_is_named(tmp_path):
    folder(tmp_path, "train.json")
    (tmp_path / "dev.json").symlink_to("blobs/1")
    with pytest.raises(GLMError, match=r"dev\.json is a link to blobs/1, which does not exist: download it"):
        split(tmp_path, "train")
    assert split(tmp_path / "train.json", "dev") == []


def test_test_data_that_stands_for_dev_is_said(tmp_path):
    folder(tmp_path, "train.json", "test.json")
    described = load_examples("dureader_qg", "dev", str(tmp_path)).source_description
    assert described.endswith("; there is no dev or validation data, so the test data stands for it")


def test_one_file_of_a_folder(tmp_path):
    """Its dev split is called as it is, and nothing else beside it is."""
    folder(tmp_path, "train_zh.json", "dev_zh.json", "dev_en.json", "test_zh.json", "mine.json", *SHARDS)
    assert split(tmp_path / "train_zh.json", "train") == ["train_zh.json"]
    assert split(tmp_path / "train_zh.json", "dev") == ["dev_zh.json"]
    assert split(tmp_path / "train_zh.json", "test") == ["test_zh.json"]
    assert split(tmp_path / "mine.json", "dev") == []
    part = load_examples("dureader_qg", "train", str(tmp_path / SHARDS[1])).source_description
    assert part.endswith("(1 rows); one of 2 parts, pass the folder to train on all")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train_dev.json", "test.json"], "only test.json, train_dev.json, where train_dev.json names two splits"),
        (["train/dev.json"], "only train/dev.json, where train/dev.json names two splits"),
        (["train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"], "lacks the parts 00001-of-00003 of train data"),
        (["train-00001-of-00002.json"], "lacks the parts 00000-of-00002 of train data"),
        (["train.csv"], "holds no .json or .jsonl file; train.csv is not read: save its rows as JSON Lines"),
        (["train.jsonl.lz4"], "holds no .json or .jsonl file; train.jsonl.lz4 is not read: unpack it first"),
    ],
)
def test_refused(tmp_path, names, said):
    with pytest.raises(GLMError) as error:
        load_examples("dureader_qg", "train", str(folder(tmp_path, *names)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_parts_counted_from_one(tmp_path):
    names = ["train-00001-of-00002.json", "train-00002-of-00002.json"]
    assert split(folder(tmp_path, *names), "train") == names


def test_many_files_are_described_shortly(tmp_path):
    names = [f"train-{n:05d}-of-00012.json" for n in range(12)]
    folder(tmp_path, *names)
    assert choose_files(tmp_path, "train").where == f"{tmp_path}/{names[0]} … {tmp_path}/{names[-1]} (12 files)"


def test_splits_of_the_hub():
    splits = ["train_sft", "test_sft", "train_gen", "default"]
    assert choose_names(splits, "train") == ["train_sft", "train_gen"]
    assert choose_names(splits, "dev") == ["test_sft"]
    assert choose_names(["train", "train_small", "validation"], "train") == ["train"]


@pytest.mark.parametrize(
    ("ending", "pack"), [("json.gz", gzip.compress), ("jsonl.bz2", bz2.compress), ("json.xz", lzma.compress)]
)
def test_packed_files(tmp_path, ending, pack):
    folder(tmp_path, "dev.json")
    (tmp_path / f"train.{ending}").write_bytes(pack(b"\xef\xbb\xbf" + rows_of("packed")))
    assert (split(tmp_path, "train"), split(tmp_path, "dev")) == (["packed"], ["dev.json"])
    (tmp_path / f"train.{ending}").write_bytes(pack(rows_of("packed"))[:-9])
    with pytest.raises(GLMError, match=r"train\..* cannot be unpacked \(.*\): download it again"):
        split(tmp_path, "train")


def test_tables_of_the_hub(tmp_path):
    """Shards of parquet, and what `save_to_disk` writes; the rows are those of JSON."""
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": f"{n}"}]} for n in "ab"]
    table = datasets.Dataset.from_list(rows)
    for number in range(2):
        table.select([number]).to_parquet(tmp_path / f"hub/data/train-{number:05d}-of-00002.parquet")
    table.select([0]).to_parquet(tmp_path / "hub/data/test-00000-of-00001.parquet")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "disk"))
    for path in (tmp_path / "hub", tmp_path / "disk"):
        train, dev = (load_examples("messages", name, str(path)).examples for name in ("train", "dev"))
        assert [example.target for example in train] == ["a", "b"]
        assert [example.target for example in dev] == ["a"]
    (damaged := tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(GLMError, match=r"x\.parquet is damaged or cut short \("):
        read_rows(damaged)


def test_a_table_has_the_rows_of_json(tmp_path):
    """Its objects have one set of names, null where a row had none: no null gets into a tool's schema or a call."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import feather, parquet

    schemas = [{"name": "f", "parameters": {"a": {"type": "string"}}}, {"name": "g", "parameters": {"b": {"x": 1}}}]
    calls = [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {name: 1}}]} for name in "ab"]
    asked = {"role": "user", "content": "q"}
    rows = [{"messages": [asked, call, {"role": "tool", "content": "1"}, calls[0]], "tools": schemas} for call in calls]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "x.parquet")
    feather.write_feather(table, tmp_path / "feather.arrow")
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wanted = load_examples("messages", "train", str(tmp_path / "x.jsonl")).examples
    for name in ("x.parquet", "feather.arrow"):
        assert load_examples("messages", "train", str(tmp_path / name)).examples == wanted
    assert list(_numbered("hub", table.to_pylist()))[1].value["tools"] == schemas


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"{}", mtime=0), r"is a \.gz file by its content: give it a name that ends in \.gz"),
        (b"PAR1 and more", r"is a \.parquet file by its content: give it a name that ends in \.parquet"),
        (b"PK\x03\x04 and more", r"is a \.zip file by its content: unpack it first"),
    ],
)
def test_content_of_another_kind_than_the_name_says(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(GLMError, match=said):
        read_rows(tmp_path / "x.json")


def test_times_in_a_table_are_no_text(tmp_path):
    datasets = pytest.importorskip("datasets")
    from datetime import datetime

    datasets.Dataset.from_list([{"context": datetime(2026, 1, 1)}]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(GLMError, match=r"train\.parquet, row 1: field 'context' is a datetime, not text"):
        load_examples("dureader_qg", "train", str(tmp_path))


@pytest.mark.parametrize("name", ["train.json", "train.parquet", "train.jsonl.gz"])
def test_a_pointer_of_git_lfs(tmp_path, name):
    (tmp_path / name).write_bytes(LFS)
    with pytest.raises(GLMError, match=rf"{name} is a git-lfs pointer, not the file itself: run `git lfs pull`"):
        load_examples("dureader_qg", "train", str(tmp_path))


def test_a_table_of_another_kind(tmp_path):
    (tmp_path / "rows.csv").write_text("context,answer\n")
    with pytest.raises(GLMError, match=r"rows\.csv is a \.csv file, and data is read from \.json, .* save its rows as"):
        load_examples("dureader_qg", "train", str(tmp_path / "rows.csv"))

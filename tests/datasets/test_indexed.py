"""Indexed data sets: Megatron's bytes, PaddleNLP's reader and builder, and what a damaged one is told."""

import hashlib
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from paddlenlp.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder

from glm.datasets.indexed import HEADER, IndexedDataset, id_dtype, offsets_of
from glm.datasets.indexed_record import read_record, require_tokenizer, tokenizer_record
from glm.datasets.indexed_writer import IndexedDatasetWriter
from glm.datasets.preprocess import merge
from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer

# Three documents of 5, 3 and 7 ids, int32.
GOLDEN = bytes.fromhex(
    "4d4d4944494458000001000000000000000403000000000000000400000000000000050000000300000007000000"
    "000000000000000014000000000000002000000000000000"
    "0000000000000000010000000000000002000000000000000300000000000000"
)
GOLDEN_SHA256 = "176a753dacd7b16ae49641e7a5456b57ff4b0b48b4ed253f1a158051427dad40"


def write(prefix: Path, documents, dtype="int32") -> Path:
    """Documents of one sequence."""
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for ids in documents:
            writer.add_document(ids)
    return prefix


def files(prefix: Path) -> list[bytes]:
    return [prefix.with_name(prefix.name + ending).read_bytes() for ending in (".bin", ".idx")]


@pytest.fixture
def golden(tmp_path) -> Path:
    return write(tmp_path / "golden", [range(5), range(5, 8), range(8, 15)])


def test_the_golden_bytes(golden):
    tokens, index = files(golden)
    assert index == GOLDEN and hashlib.sha256(index).hexdigest() == GOLDEN_SHA256
    assert tokens == np.arange(15, dtype="<i4").tobytes()


def test_the_golden_bytes_of_uint16(tmp_path):
    tokens, index = files(write(tmp_path / "small", [range(5), range(5, 8), range(8, 15)], "uint16"))
    offsets = np.array([0, 10, 16], "<i8").tobytes()
    assert index == GOLDEN[:17] + b"\x08" + GOLDEN[18:46] + offsets + GOLDEN[70:]
    assert tokens == np.arange(15, dtype="<u2").tobytes()


def test_what_a_data_set_has(golden):
    data = IndexedDataset(golden)
    assert (len(data), data.token_count, data.dtype) == (3, 15, np.int32)
    assert (data.lengths.tolist(), data.lengths.dtype) == ([5, 3, 7], np.int32)
    assert (data.document_index.tolist(), data.document_index.dtype) == ([0, 1, 2, 3], np.int64)
    assert [ids.tolist() for ids in data] == [[*range(5)], [5, 6, 7], [*range(8, 15)]]
    assert data.read(2, 1, 3).tolist() == [9, 10, 11] and data.read(2, 6).tolist() == [14]
    assert data[1].dtype == np.int32 and data.read(1, 3).size == 0
    assert [path.name for path in golden.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("part", [(3,), (0, 0, 6), (0, 5, 1), (0, -1, 2), (0, 2, -1)])
def test_what_is_not_there_is_not_read(golden, part):
    with pytest.raises(IndexError):
        IndexedDataset(golden).read(*part)


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_a_file_stands_for_its_prefix(golden, ending):
    assert len(IndexedDataset(f"{golden}{ending}")) == 3


def test_another_process_opens_it_anew(golden):
    """A memory map would be sent as an array of all ids."""
    sent = pickle.dumps(IndexedDataset(golden))
    assert len(sent) < 200
    assert pickle.loads(sent)[1].tolist() == [5, 6, 7]


@pytest.mark.parametrize(("size", "dtype"), [(0, "uint16"), (65499, "uint16"), (65500, "int32"), (151552, "int32")])
def test_the_type_of_a_vocabularys_ids(size, dtype):
    assert id_dtype(size) == dtype


def test_offsets_beyond_what_32_bits_hold():
    """Three documents as long as can be, and a short one: 24 GiB."""
    lengths = np.array([2**31 - 1, 2**31 - 1, 2**31 - 1, 5], "<i4")
    (found,) = offsets_of(lengths, 4)
    assert found.dtype == np.int64
    assert found.tolist() == [number * (2**31 - 1) * 4 for number in range(4)]


def test_a_data_set_beyond_2_gib_is_read(tmp_path):
    """A sparse file: nothing but its end is on the disk."""
    lengths = [2**30, 3]
    index = header(count=2, documents=3) + np.array(lengths, "<i4").tobytes() + np.array([0, 2**32], "<i8").tobytes()
    (tmp_path / "x.idx").write_bytes(index + np.array([0, 1, 2], "<i8").tobytes())
    with (tmp_path / "x.bin").open("wb") as file:
        file.seek(2**32)
        file.write(np.array([7, 8, 9], "<i4").tobytes())
    data = IndexedDataset(tmp_path / "x")
    assert data[1].tolist() == [7, 8, 9] and data.token_count == 2**30 + 3
    assert data.read(0, 2**30 - 2).tolist() == [0, 0]


def random_documents(draw: np.random.Generator, dtype: str) -> list[list[np.ndarray]]:
    """Documents of none to three sequences, some of them empty."""
    high = 2**15 if dtype == "uint16" else 120
    lengths = [draw.integers(0, 9, draw.integers(0, 4)) for _ in range(draw.integers(1, 20))] + [[1]]
    return [[draw.integers(0, high, length).astype(dtype) for length in document] for document in lengths]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
def test_files_are_paddlenlps_and_the_other_way_round(tmp_path, dtype, capsys):
    draw = np.random.default_rng(len(dtype))
    for case in range(12):
        documents = random_documents(draw, dtype)
        ours, theirs = tmp_path / f"ours{case}", tmp_path / f"theirs{case}"
        builder = MMapIndexedDatasetBuilder(f"{theirs}.bin", dtype=np.dtype(dtype).type)
        with IndexedDatasetWriter(ours, dtype) as writer:
            for document in documents:
                for ids in document:
                    writer.add_sequences(ids, np.array([len(ids)]))
                    builder.add_item(ids)
                writer.end_document()
                builder.end_document()
        builder.finalize(f"{theirs}.idx")
        assert files(ours) == files(theirs)
        found, read = IndexedDataset(theirs), MMapIndexedDataset(str(ours), skip_warmup=True)
        sequences = [ids.tolist() for document in documents for ids in document]
        assert [ids.tolist() for ids in found] == sequences == [read[i].tolist() for i in range(len(read))]
        assert found.document_index.tolist() == read.doc_idx.tolist()
        assert found.lengths.tolist() == read.sizes.tolist()


def test_joined_parts_are_one_run(tmp_path):
    draw = np.random.default_rng(1)
    documents = [draw.integers(0, 900, length) for length in draw.integers(0, 9, 40)]
    whole = write(tmp_path / "whole", documents)
    parts = [write(tmp_path / f"part{i}", documents[i * 13 : i * 13 + 13]) for i in range(4)]
    report = merge(list(map(str, parts)), str(tmp_path / "joined"))
    assert files(tmp_path / "joined") == files(whole)
    assert (report.documents, report.tokens) == (40, sum(map(len, documents)))
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.int32)
    for part in parts:
        builder.merge_file_(str(part))
    builder.finalize(str(tmp_path / "theirs.idx"))
    assert files(tmp_path / "theirs") == files(whole)


def test_parts_of_two_types_are_not_joined(tmp_path):
    parts = [str(write(tmp_path / dtype, [[1, 2]], dtype)) for dtype in ("int32", "uint16")]
    with pytest.raises(
        GLMError, match=r"uint16 has ids of type uint16, what was joined before int32: join data of one"
    ):
        merge(parts, str(tmp_path / "joined"))
    assert not list(tmp_path.glob("*joined*"))


def test_more_sequences_than_are_looked_at_together(tmp_path, monkeypatch):
    for module in ("indexed", "indexed_writer"):
        monkeypatch.setattr(f"glm.datasets.{module}.CHUNK", 4)
    documents = [[7] * (number % 3) for number in range(11)]
    data = IndexedDataset(write(tmp_path / "long", documents))
    assert [ids.tolist() for ids in data] == documents
    merge([str(tmp_path / "long")], str(tmp_path / "copy"))
    assert files(tmp_path / "copy") == files(tmp_path / "long")


def header(**changed) -> bytes:
    values = {"magic": b"MMIDIDX\0\0", "version": 1, "code": 4, "count": 3, "documents": 4} | changed
    return HEADER.pack(*values.values())


def patched(place: int, form: str, value: int) -> bytes:
    return GOLDEN[:place] + struct.pack(form, value) + GOLDEN[place + struct.calcsize(form) :]


WRONG = {
    "another file": (b"PK\x03\x04" + bytes(98), r"begins with b'PK.*', an indexed data set with b'MMIDIDX"),
    "PaddleNLP's lazy format": (b"TNTIDX\0\0" + bytes(94), r"begins with b'TNTIDX"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", r"is a git-lfs pointer"),
    "nothing": (b"", r"begins with b'', an indexed"),
    "version 2": (header(version=2) + GOLDEN[34:], r"is of version 2, only version 1 is known"),
    "uint32 of PaddleNLP": (
        header(code=9) + GOLDEN[34:],
        r"has elements of type 9, ids are 1 uint8, .* 8 uint16",
    ),
    "float32": (header(code=7) + GOLDEN[34:], r"has elements of type 7, ids are"),
    "no sequence": (header(count=0, documents=1) + bytes(8), r"has no sequences"),
    "cut in the header": (GOLDEN[:20], r"has 20 bytes, its header alone has 34"),
    "cut": (GOLDEN[:-1], r"has 101 bytes; 3 sequences and 4 entries of documents need 102"),
    "more": (GOLDEN + b"\0", r"has 103 bytes; 3 sequences and 4"),
    "modes": (GOLDEN + b"\0\0\0", r"has modes, so it holds images beside text"),
    "documents from 1 on": (patched(70, "<q", 1), r"documents from 1 to 3, not 0 to 3"),
    "documents beyond the end": (patched(94, "<q", 4), r"documents from 0 to 4, not 0 to 3"),
    "documents in no order": (patched(78, "<q", 3), r"the documents are not in order"),
    "a length below zero": (patched(34, "<i", -1), r"a sequence has -1 ids"),
    "an offset that overflowed": (patched(62, "<q", -32), r"sequence 2 is said to begin at byte -32, its place is 32"),
    "a longer sequence": (patched(42, "<i", 8), r"\.bin has 60 bytes, golden\.idx describes 64"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_index_is_named(golden, case):
    content, message = WRONG[case]
    golden.with_suffix(".idx").write_bytes(content)
    with pytest.raises(GLMError, match=message) as error:
        IndexedDataset(golden)
    assert str(error.value).startswith(str(golden)) and "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "found"), [(59, "59"), (0, "0"), (61, "61")])
def test_ids_of_another_size_are_named(golden, size, found):
    path = golden.with_suffix(".bin")
    path.write_bytes((path.read_bytes() + b"\0")[:size])
    with pytest.raises(GLMError, match=rf"\.bin has {found} bytes, golden\.idx describes 60: copy both files again"):
        IndexedDataset(golden)


def test_a_missing_file_is_named(golden):
    with pytest.raises(GLMError, match=r"gone\.idx does not exist: pass the path of"):
        IndexedDataset(golden.with_name("gone"))
    golden.with_suffix(".bin").unlink()
    with pytest.raises(GLMError, match=r"golden\.bin does not exist, though golden\.idx does"):
        IndexedDataset(golden)


def test_a_loss_mask_is_not_passed_over(golden):
    golden.with_suffix(".lsm").write_bytes(bytes(15))
    with pytest.raises(GLMError, match=r"golden\.lsm is PaddleNLP's loss mask, which is not read"):
        IndexedDataset(golden)


def test_ids_that_do_not_fit(tmp_path):
    with pytest.raises(GLMError, match="ids from 3 to 70000 do not fit into uint16, 65535 at most"):
        write(tmp_path / "x", [[70_000, 3]], "uint16")
    with pytest.raises(GLMError, match="uint32 is no type of ids in indexed data: choose of uint8"):
        IndexedDatasetWriter(tmp_path / "x", "uint32")
    with pytest.raises(GLMError, match="no document to write; nothing was written"):
        write(tmp_path / "x", [])
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_what_was_there(golden):
    before = files(golden)
    with pytest.raises(ZeroDivisionError), IndexedDatasetWriter(golden, "int32") as writer:
        writer.add_document([1, 2])
        writer.add_document([1 // 0])
    assert files(golden) == before
    write(golden, [[1, 2]])
    assert [ids.tolist() for ids in IndexedDataset(golden)] == [[1, 2]]
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden.bin", "golden.idx"]


def test_of_two_data_sets_both_appear_or_none(tmp_path):
    with (
        pytest.raises(GLMError, match="b: no document to write"),
        IndexedDatasetWriter(tmp_path / "a", "int32") as first,
        IndexedDatasetWriter(tmp_path / "b", "int32") as second,
    ):
        first.add_document([1])
        first.finish()
        second.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_new_one_takes_the_record_of_the_old_one_away(golden):
    with IndexedDatasetWriter(golden, "int32") as writer:
        writer.add_document([1])
        writer.finish({"a": 1})
    assert read_record(golden) == {"a": 1}
    write(golden, [[2]])
    assert read_record(golden) is None


def test_the_writers_memory_does_not_grow(tmp_path):
    """200,000 documents have an index of 4 MB."""
    ids, lengths = np.arange(10_000, dtype="int32"), np.full(5_000, 2)
    tracemalloc.start()
    with IndexedDatasetWriter(tmp_path / "many", "int32") as writer:
        for _ in range(40):
            writer.add_documents(ids, lengths)
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(IndexedDataset(tmp_path / "many")) == 200_000
    assert peak < 4_000_000  # three buffers of a megabyte, and one batch


@pytest.mark.parametrize("name", ["glm-4-9b-tiny", "glm-4-9b-0414-tiny"])
def test_the_tokenizer_is_checked(tmp_path, name):
    """Both GLM-4 tokenizers have the same pieces, in two kinds of file."""
    made, other = GLMTokenizer.from_pretrained("glm-4-9b-tiny"), GLMTokenizer.from_pretrained("glm-tiny-chinese")
    with IndexedDatasetWriter(tmp_path / "x", "uint16") as writer:
        writer.add_document([1])
        writer.finish({"tokenizer": tokenizer_record(made)})
    assert require_tokenizer(tmp_path / "x", GLMTokenizer.from_pretrained(name))["tokenizer"]["kind"] == "glm4"
    wrong = r"x is of another tokenizer \(glm4, 768 ids, \w{16}\) than the model \(glm-chinese, 384 ids, \w{16}\)"
    with pytest.raises(GLMError, match=wrong):
        require_tokenizer(tmp_path / "x", other)

"""Samples of indexed data sets: their tokens, their splits, what --input_dir may name, and what is wrong with it."""

import numpy as np
import pytest

from glm.datasets.blend import blend_index
from glm.datasets.gpt_index import build_index
from glm.datasets.pretraining import Samples, SampleSettings, Source, open_sources
from glm.errors import GLMError, UsageError
from tests.indexed_text import write_indexed


@pytest.fixture
def folder(tmp_path):
    """Three data sets whose ids say where they come from: hundreds the data set, tens the document."""
    for hundred, name in enumerate(("a", "b", "c"), 1):
        documents = [[100 * hundred + 10 * ten + one for one in range(3 + ten)] for ten in range(6)]
        write_indexed(tmp_path / "data" / name, documents)
    return tmp_path / "data"


def settings(**changes) -> SampleSettings:
    return SampleSettings(**{"split": "4,1,1", "max_length": 4, "seed": 1234, "vocab_size": 800} | changes)


def by_definition(data, sequences: range, count: int, wanted: int) -> list[list[int]]:
    """From all tokens behind one another."""
    index = build_index(data.lengths, sequences, 4, wanted, 1234)
    row = np.concatenate([data[number] for number in index.document]).tolist()
    return [row[4 * sample : 4 * sample + 5] for sample in index.shuffle[:count].tolist()]


def test_a_sample_is_its_tokens(folder):
    """Each shares its last token with the next one; documents of another split are not read."""
    source = Source(folder / "a")
    for wanted in (1, 3, 30):
        found = [row.tolist() for row in Samples([source], "train", settings(), wanted).build()]
        assert found == by_definition(source.data, range(4), wanted, wanted)
    assert Samples([source], "train", settings(), 2).build()[0].dtype == np.int64
    valid = Samples([source], "valid", settings()).build()
    assert len(valid) == (7 - 1) // 4 == 1 and {token // 10 for token in valid[0].tolist()} == {14}
    assert valid.tokens == 7
    assert Samples([source], "test", settings()).build()[0].tolist() == [150, 151, 152, 153, 154]


def test_without_a_number_every_token_is_read_once(folder):
    samples = Samples([Source(folder / "a")], "train", settings(split="1")).build()
    assert len(samples) == (33 - 1) // 4
    rows = [row.tolist() for row in samples]
    assert len({token for row in rows for token in row}) == 4 * len(samples) + 1
    short = Samples([Source(folder / "a")], "train", settings(split="1", max_length=100)).build()
    assert len(short) == 1 and len(short[0]) == 101


def test_blended_samples(folder):
    """The blend says of which data set, and which of its samples; each is built with its share and the surplus."""
    sources = open_sources([f"0.3 {folder}/a 0.7 {folder}/b"])
    samples = Samples(sources, "train", settings(), 40).build()
    index = blend_index([0.3, 0.7], 40)
    own = [by_definition(source.data, range(4), count, count) for source, count in zip(sources, (13, 29), strict=True)]
    wanted = [own[member][sample] for member, sample in zip(*index.values(), strict=True)]
    assert [row.tolist() for row in samples] == wanted


def test_what_input_dir_may_name(folder):
    def named(*words):
        return [(source.prefix.name, source.weight) for source in open_sources(words)]

    assert named(f"{folder}/a") == named(f"{folder}/a.idx") == named(f"{folder}/a.bin") == [("a", None)]
    assert named(f"{folder}") == [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert named(f"2 {folder}/b 1 {folder}/a") == named("2", f"{folder}/b", "1", f"{folder}/a")
    assert named("1", f"{folder}/b") == [("b", 1.0)]
    spaced = write_indexed(folder / "with blanks" / "my text", [[1, 2]])
    assert named(str(spaced)) == [("my text", None)] == named(str(spaced.parent))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["0.5 {0}/a {0}/b"],
            r"input_dir has 3 words \(0.5 .*/a .*/b\), and must be one prefix, a folder, or a",
        ),
        (["{0}/a {0}/b"], r"has '.*/a' in the place of a weight, and must be"),
        (["0", "{0}/a", "1", "{0}/b"], "has the weight 0.0, and weights must be above 0"),
        (["{0}/none"], r"none.idx does not exist"),
        (["{0}/empty"], r"empty holds no .idx file: make one there with preprocess_data.py"),
    ],
)
def test_what_it_may_not(folder, words, message):
    (folder / "empty").mkdir()
    with pytest.raises(GLMError, match=message):
        open_sources([word.format(folder) for word in words])


def test_a_split_without_a_document(folder):
    message = r"split 949,50,1 leaves no document for valid of the 6 in .*/a: choose other shares"
    with pytest.raises(UsageError, match=message):
        Samples([Source(folder / "a")], "valid", settings(split="949,50,1"))
    empty = write_indexed(folder / "empty", [[], [], [1, 2]])
    with pytest.raises(GLMError, match="the 2 documents for train hold 0 tokens"):
        Samples([Source(empty)], "train", settings(split="2,1"))


def test_ids_that_the_model_lacks(folder):
    samples = Samples([Source(folder / "b")], "test", settings(vocab_size=252)).build()
    with pytest.raises(GLMError, match=r"/b has the token id 25\d in its sequences 5 to 5, and .* ids 0 to 251"):
        samples[0]
    negative = write_indexed(folder / "n", [[1, -5, 3, 4, 5, 6]])
    with pytest.raises(GLMError, match="has the token id -5 in"):
        Samples([Source(negative)], "train", settings(split="1")).build()[0]


def test_the_digest_is_of_the_content(folder, tmp_path):
    """The same wherever the files lie, another one for other ids of the same lengths."""
    ids = [[1, 2, 3], [4, 5]]
    one, same, other = (
        Source(write_indexed(tmp_path / str(number) / "x", documents)).digest
        for number, documents in enumerate((ids, ids, [[1, 2, 9], [4, 5]]))
    )
    assert one == same != other

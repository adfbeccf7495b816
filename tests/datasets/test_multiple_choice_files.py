"""Files of MMLU, C-Eval and CMMLU, with what is odd in them, and what is said of rows that cannot be asked."""

import shutil
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

from glm.datasets.multiple_choice import hub
from glm.datasets.multiple_choice.benchmarks import BENCHMARKS, UNLISTED
from glm.datasets.multiple_choice.read import Wanted, read_benchmark
from glm.datasets.multiple_choice.rows import read_questions
from glm.errors import GLMError, UsageError
from tests.shared_files import SHARED

MMLU, CEVAL, CMMLU = (BENCHMARKS[name] for name in ("mmlu", "ceval", "cmmlu"))
DATA = Path(__file__).resolve().parents[2] / "data"
ROW = "q,a,b,c,d,A\n"


@pytest.fixture
def file(tmp_path):
    """Writes a file and gives its path."""

    def written(text: str | bytes, name: str = "law_test.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def mmlu(path: Path, skip: bool = False):
    return read_questions(path, header=False, hidden=False, skip_bad_rows=skip)


def folder(tmp_path: Path, dev: str = ROW * 5, test: str = ROW, subject: str = "law") -> str:
    for split, text in (("dev", dev), ("test", test)):
        (tmp_path / split).mkdir(exist_ok=True)
        if text:
            (tmp_path / split / f"{subject}_{split}.csv").write_text(text, encoding="utf-8")
    return str(tmp_path)


def test_fields_are_kept_as_they_are(file):
    """None, NA and nan are words; quotes hold commas, quotes and line ends."""
    text = 'Which?,None,NA,nan,null,B\n"Line 1\nsaid ""x"", then\n",,"1,000"," b",d,D\n\n'
    first, second = mmlu(file(text)).questions
    assert (first.choices, first.answer) == (("None", "NA", "nan", "null"), "B")
    assert second.text == 'Line 1\nsaid "x", then\n'
    assert (second.choices, second.id) == (("", "1,000", " b", "d"), "1")


def test_windows_lines_and_byte_order_marks(file):
    questions = mmlu(file(b'\xef\xbb\xbfq,a,b,c,d,A\r\n"x\r\ny",a,b,c,d,C\r\n')).questions
    assert [(each.text, each.answer) for each in questions] == [("q", "A"), ("x\r\ny", "C")]


WRONG = {
    "q,a,b,c,d,None\n": "the answer is 'None', and must be one of A, B, C, D",
    "q,a,b,c,d,E\n": "the answer is 'E'",
    "q,a,b,c,d,\n": "the answer is ''",
    "q,a,b,c,d,a\n": "the answer is 'a'",
    "q,a,b,c,A\n": r"the row has 5 columns, and 6 are needed \(question, A, B, C, D, answer\)",
    "q,a,b,c,d,A,why\n": "the row has 7 columns",
    '"\n",a,b,c,d,A\n': "the question is empty",
}


@pytest.mark.parametrize(("row", "said"), WRONG.items(), ids=range(len(WRONG)))
def test_a_bad_row_is_named_or_left_out(file, row, said):
    path = file(f'"two\nlines",a,b,c,d,A\n{row}{ROW}')
    with pytest.raises(GLMError, match=rf"law_test\.csv, line 3: {said}.*; fix the row or pass --skip_bad_rows$"):
        mmlu(path)
    read = mmlu(path, skip=True)
    assert ([each.text for each in read.questions], read.skipped) == (["two\nlines", "q"], 1)


def test_a_quote_that_is_never_closed_is_no_single_row(file):
    """It takes the rest of the file along, which must not be left out in silence."""
    path = file(f'{ROW}q,a,b,c,d,"A\n{ROW * 9}')
    for skip in (False, True):
        with pytest.raises(GLMError, match=r"line 2: a quote is opened and never closed"):
            mmlu(path, skip)


def test_another_encoding(file):
    with pytest.raises(GLMError, match=r"line 2: not UTF-8 .*save the file as UTF-8"):
        mmlu(file(ROW.encode() + "问,a,b,c,d,A\n".encode("gbk")))


def test_columns_by_their_names(file):
    """Another order and other columns beside them; C-Eval's test split has no answers."""
    text = "explanation,answer,D,C,B,A,question,id\nwhy,D,d,c,b,a,q,7\n"
    [question] = read_questions(file(text), header=True, hidden=False).questions
    assert (question.id, question.choices, question.answer) == ("7", ("a", "b", "c", "d"), "D")
    [question] = read_questions(file("id,question,A,B,C,D\n7,q,a,b,c,d\n"), header=True, hidden=True).questions
    assert (question.id, question.answer) == ("7", "")
    with pytest.raises(GLMError, match=r"line 1: the columns are id, question, A, B, C, D, and answer is missing"):
        read_questions(file("id,question,A,B,C,D\n7,q,a,b,c,d\n"), header=True, hidden=False)


def test_cmmlu(tmp_path, file):
    for split in ("dev", "test"):
        file(",Question,A,B,C,D,Answer\n" + "".join(f"{i},q{i},a,b,c,d,C\n" for i in range(5)), f"{split}/arts.csv")
    [subject], _ = read_benchmark(CMMLU, str(tmp_path), Wanted(num_shots=2))
    assert (subject.name, len(subject.shots), len(subject.questions)) == ("arts", 2, 5)
    assert (subject.questions[3].id, subject.questions[3].text) == ("3", "q3")


@pytest.mark.parametrize("where", ["", "test", "dev"])
def test_the_folder_or_that_of_a_split(tmp_path, where):
    """MindSpeed-LLM is given mmlu/test; hendrycks' archive has data/."""
    (tmp_path / "data").mkdir()
    folder(tmp_path / "data")
    for path in (tmp_path, tmp_path / "data" / where):
        [subject], notes = read_benchmark(MMLU, str(path), Wanted())
        assert (subject.name, len(subject.shots), notes) == ("law", 5, [])


def test_shots_that_are_not_there(tmp_path):
    path = folder(tmp_path, dev="")
    with pytest.raises(GLMError, match=r"law_dev\.csv: subject law has 0 dev rows, and num_shots is 5: add rows or"):
        read_benchmark(MMLU, path, Wanted())
    assert read_benchmark(MMLU, path, Wanted(num_shots=0))[0][0].shots == ()
    with pytest.raises(GLMError, match=r"has 3 dev rows, and num_shots is 5: .*--num_shots 3"):
        read_benchmark(MMLU, folder(tmp_path, dev=ROW * 3), Wanted())


def test_bad_rows_are_counted(tmp_path):
    path = folder(tmp_path, dev=ROW * 5 + "q\n", test=f"{ROW}q\n")
    [subject], notes = read_benchmark(MMLU, path, Wanted(skip_bad_rows=True))
    assert (len(subject.shots), len(subject.questions), notes) == (5, 1, ["2 bad rows left out"])
    with pytest.raises(GLMError, match="no rows of law to score, all 1 are bad"):
        read_benchmark(MMLU, folder(tmp_path, test="q\n"), Wanted(skip_bad_rows=True))


def test_what_is_no_data(tmp_path):
    with pytest.raises(UsageError, match=r"data_path \S+ has no folder test/ \(it holds nothing\)"):
        read_benchmark(MMLU, str(tmp_path), Wanted())
    with pytest.raises(UsageError, match=r"data_path nowhere does not exist: .* a name such as cais/mmlu"):
        read_benchmark(MMLU, "nowhere", Wanted())
    with pytest.raises(UsageError, match=r"split is 'train', and ceval has val and test"):
        read_benchmark(CEVAL, str(tmp_path), Wanted(split="train"))
    (tmp_path / "test").mkdir()
    with pytest.raises(UsageError, match=r"they are called \{subject\}_\{split\}\.csv"):
        read_benchmark(MMLU, str(tmp_path), Wanted())


def test_subjects_by_name_and_by_category(tmp_path):
    for name in ("abstract_algebra", "anatomy", "philosophy", "mine"):
        folder(tmp_path, subject=name)

    def names(*asked):
        return [subject.name for subject in read_benchmark(MMLU, str(tmp_path), Wanted(subjects=asked))[0]]

    assert names() == ["abstract_algebra", "anatomy", "mine", "philosophy"]
    assert names("philosophy", "STEM") == ["abstract_algebra", "philosophy"]
    assert names(UNLISTED) == ["mine"]
    with pytest.raises(UsageError, match="subject 'filosophy' is not in the data: did you mean philosophy"):
        names("filosophy")


def test_the_tables_have_every_subject():
    """57, 52 and 67; CMMLU's 15 Chinese ones are in a category of their own as well."""
    counts = {
        name: Counter(len(each.categories_of(subject)) for subject in set().union(*each.categories.values()))
        for name, each in BENCHMARKS.items()
    }
    assert counts == {"mmlu": {1: 57}, "ceval": {1: 52}, "cmmlu": {1: 52, 2: 15}}
    assert [len(each) for each in MMLU.categories.values()] == [18, 13, 12, 14]
    assert CEVAL.title("logic") == "逻辑学" and CMMLU.title("logical") == "逻辑学"
    assert set(CEVAL.titles) == set().union(*CEVAL.categories.values())
    assert MMLU.title("high_school_us_history") == "high school us history"


def test_the_bundled_questions():
    subjects, _ = read_benchmark(MMLU, str(DATA / "exam_en"), Wanted())
    assert {subject.name: len(subject.questions) for subject in subjects} == {
        "elementary_mathematics": 20,
        "miscellaneous": 20,
    }
    subjects, _ = read_benchmark(CEVAL, str(DATA / "exam_zh"), Wanted(limit=3))
    assert {subject.name: len(subject.questions) for subject in subjects} == {
        "logic": 3,
        "middle_school_mathematics": 3,
    }


@pytest.mark.skipif(not (SHARED / "real/datasets/mmlu").is_dir(), reason="the real MMLU files are not here")
def test_real_files():
    subjects, notes = read_benchmark(MMLU, str(SHARED / "real/datasets/mmlu"), Wanted())
    assert [(subject.name, len(subject.shots), len(subject.questions)) for subject in subjects] == [
        ("astronomy", 5, 152),
        ("high_school_european_history", 5, 165),
        ("nutrition", 5, 306),
        ("sociology", 5, 201),
    ]
    assert notes == []
    assert any("\n" in question.text for question in subjects[1].questions)


HUB = {
    "cais/mmlu": {"question": "q", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2},
    "ceval/ceval-exam": {"id": 4, "question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C"},
    "haonan-li/cmmlu": {"Question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "Answer": "C"},
}


@pytest.mark.parametrize("name", HUB)
def test_a_name_on_the_hub(monkeypatch, name):
    """With the rows that the three data sets have there; no network is behind this test."""
    rows = {split: [HUB[name]] * 5 for split in ("dev", "validation", "test", "val")}
    library = types.SimpleNamespace(
        get_dataset_config_names=lambda name: ["law", "all"], load_dataset=lambda name, subject: rows
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(hub.HubSource, "_probe", lambda self: None)
    benchmark = next(each for each in BENCHMARKS.values() if each.repository == name)
    [subject], _ = read_benchmark(benchmark, name, Wanted())
    assert (subject.name, len(subject.shots)) == ("law", 5)
    question = subject.questions[0]
    assert (question.text, question.choices, question.answer) == ("q", ("a", "b", "c", "d"), "C")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    from huggingface_hub import HfApi

    def fail(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    with pytest.raises(GLMError, match=r"data set cais/mmlu is no folder here and cannot be had .*\(ConnectionError\)"):
        read_benchmark(MMLU, "cais/mmlu", Wanted())


def test_rows_of_the_hub_that_cannot_be_asked():
    assert "2 choices" in str(hub.fields_of({"question": "q", "choices": ["a", "b"], "answer": 0}, False))
    assert "A, B, C, D is missing" in str(hub.fields_of({"question": "q", "answer": "A"}, False))


def test_a_copy_is_read_alike(tmp_path):
    shutil.copytree(DATA / "exam_zh", tmp_path / "copy")
    assert read_benchmark(CEVAL, str(tmp_path / "copy"), Wanted()) == read_benchmark(
        CEVAL, str(DATA / "exam_zh"), Wanted()
    )

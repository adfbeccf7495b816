"""`python -m benchmarks.preprocess`: both sides write the same data from the same text."""

import json

import pytest

from benchmarks import preprocess


@pytest.fixture
def text(tmp_path):
    """Text that PaddleNLP's tool would change: blanks at the ends, a run of one character, an empty document."""
    rows = [" 云溪桥建于1920年。 ", "a bridge" + "-" * 300, "", "  "]
    (path := tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_both_sides_have_the_same_ids(text, tmp_path, capsys):
    output = tmp_path / "new" / "report.json"
    tokenizers = ["a=glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-0414-tiny"]
    options = ["--runs", "2", "--copies", "3", "--output", str(output), "--text", str(text)]
    assert preprocess.main([*options, "--tokenizer", *tokenizers]) == 0
    report = json.loads(output.read_text("utf-8"))["tokenizers"]
    assert [each["tokenizer"] for each in report] == ["a", "chatglm-6b-tiny", "glm-4-9b-0414-tiny"]
    for each in report:
        assert each["same"] == each["documents"] == 6 and each["tokens"] > 50
        assert len(each["ours"]) == len(each["theirs"]) == 2
    assert "6 of 6" in capsys.readouterr().out
    assert [path.name for path in output.parent.iterdir()] == [output.name], "data was left behind"


def test_what_cannot_be_measured_is_one_line(tmp_path, capsys):
    where = ["--output", str(tmp_path / "x.json"), "--runs", "1", "--copies", "1", "--tokenizer"]
    assert preprocess.main([*where, "glm-4-9b-tiny"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("benchmarks.preprocess: ") and "PaddleNLP has no tokenizer for tokenizer.model" in error
    assert not (tmp_path / "x.json").exists()

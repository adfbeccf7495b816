"""Files as people have them, through the scripts: prompts in JSON, folders of shards, joined and foreign files."""

import json
import shutil

import pytest
from commands import SHORT, TINY, predictions

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@pytest.fixture(scope="module")
def wanted(run, model, sources) -> list[str]:
    return run("predict_generation.py", "--model_name_or_path", model, *SHORT, "--input_file", sources).texts


@pytest.mark.parametrize("form", ["json", "jsonl", "txt"])
def test_rows_are_predicted_as_their_sources(run, model, rows, wanted, tmp_path, form):
    """The evaluation rows themselves: the prompts are those that training makes of them."""
    found = [json.loads(line) for line in (rows / "dev.json").read_text(encoding="utf-8").splitlines()]
    text = json.dumps(found) if form == "json" else "\n".join(map(json.dumps, found))
    (path := tmp_path / f"q.{form}").write_text(text, encoding="utf-8-sig")
    result = run("predict_generation.py", "--model_name_or_path", model, *SHORT, "--input_file", path)
    assert (result.code, result.texts) == (0, wanted)
    assert f"{path}: 8 rows as dureader_qg; not read: id\n" in result.err


def test_rows_are_inferred_as_their_sources(run, exported, rows, wanted, tmp_path):
    where = ["--model_path", exported[0], *SHORT]
    result = run("infer_generation.py", *where, "--predict_data", rows / "dev.json", cwd=tmp_path)
    assert (result.code, result.texts) == (0, wanted)
    stream = run("infer_generation.py", *where, "--stream", "-", stdin=(rows / "dev.json").read_text(encoding="utf-8"))
    assert (stream.code, stream.texts) == (0, wanted)
    assert "standard input holds JSON, so its rows are read" in stream.err


def test_rows_without_a_prompt_are_refused(run, model, tmp_path):
    (path := tmp_path / "q.jsonl").write_text('{"label": 1}\n')
    result = run("predict_generation.py", "--model_name_or_path", model, "--input_file", path)
    assert (result.code, result.out) == (1, "")
    assert result.error.startswith(f"error: {path}, line 1: no prompt is in this row, which has label: name it text")


def test_shards_of_the_hub(run, rows, tmp_path):
    """Joined shards with a mark each; the validation rows are evaluated, and not trained."""
    lines = (rows / "train.json").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder := tmp_path / "data").mkdir()
    for part in range(2):
        text = "".join(lines[20 * part : 20 * part + 20])
        (folder / f"train-{part:05d}-of-00002.jsonl").write_text("\ufeff" + text[:-1] + "\n\ufeff\n", encoding="utf-8")
    shutil.copy(rows / "dev.json", folder / "validation-00000-of-00001.jsonl")
    (folder / "dataset_infos.json").write_text('{"default": {}}')
    steps = ["--do_train", "--do_eval", "--max_steps", "1", "--save_steps", "10", "--num_beams", "1"]
    out = ["--output_dir", tmp_path / "out", "--data_path", folder, *SHORT, *steps]
    result = run("finetune_generation.py", "--model_name_or_path", TINY, *out)
    assert result.code == 0, result.err
    said = result.out + result.err
    shards = ", ".join(str(folder / f"train-{part:05d}-of-00002.jsonl") for part in range(2))
    assert f"train: {shards} (40 rows)" in said
    assert f"dev: {folder / 'validation-00000-of-00001.jsonl'} (8 rows)" in said
    assert len(predictions(tmp_path / "out")) == 8


@pytest.mark.parametrize("name", ["model.safetensors", "cog-pretrain.model", "config.json"])
def test_a_clone_without_git_lfs(run, model, tmp_path, name):
    shutil.copytree(model, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = next(path for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".pdparams"))
    path = weights if name == "model.safetensors" else tmp_path / name
    path.write_text(LFS)
    result = run("predict_generation.py", "--model_name_or_path", tmp_path, "云")
    assert (result.code, result.out) == (1, "")
    assert f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull`" in result.error

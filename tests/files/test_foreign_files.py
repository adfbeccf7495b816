"""Files that stand in the place of others: a clone without git-lfs, a saved web page, an empty download."""

import shutil
from pathlib import Path

import pytest

from glm.checkpoint.adapter import open_adapter
from glm.checkpoint.file_names import WEIGHT_FILES
from glm.checkpoint.read import open_checkpoint
from glm.config.config_json import read_config_file
from glm.encoding.processor import open_processor
from glm.errors import GLMError
from glm.export.files import parse_manifest
from glm.files.foreign_files import other_encoding
from glm.pickles.unpickle import verify_pickle
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 1021864\n"
STAND_INS = {
    POINTER: "is a git-lfs pointer, not the file itself: run `git lfs pull` in its repository, or download the file",
    b"\n<!DOCTYPE html><html><head>": "is a web page that was saved in the file's place: download the file itself",
    b"Entry not found": "holds a server's refusal (Entry not found): download it again",
    b"Access to model THUDM/x is restricted. You": "refusal (Access to model THUDM/x is restricted): download it again",
    b"": "is empty: copy or download it again",
}
FAMILIES = ["glm-tiny-chinese", "chatglm-tiny", "glm4-tiny", "glm4-0414-tiny"]
UNREAD = "added_tokens.json"  # tokenizer_config.json repeats it
TEXT_FILES = [(family, path.name) for family in FAMILIES for path in sorted((DATA / family).iterdir())]
TEXT_FILES = [(family, name) for family, name in TEXT_FILES if name != UNREAD]


def said_by(call, *arguments, **options) -> str:
    with pytest.raises(GLMError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("content", STAND_INS)
@pytest.mark.parametrize("name", [*WEIGHT_FILES, "model_state.tp00.pdparams"])
def test_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "model_state.tp01.pdparams").write_bytes(content)
    assert f"{tmp_path / name} " in (said := said_by(open_checkpoint, tmp_path))
    assert STAND_INS[content] in said


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_parts(tmp_path, name):
    stem, _, suffix = name.partition("-00001-of-00002")
    (tmp_path / f"{stem}{suffix}.index.json").write_text(f'{{"weight_map": {{"w": "{name}"}}}}')
    (tmp_path / name).write_bytes(POINTER)
    assert said_by(open_checkpoint, tmp_path).startswith(f"{tmp_path / name} is a git-lfs pointer")


@pytest.mark.parametrize(("family", "name"), TEXT_FILES)
def test_files_of_tokenizers(tmp_path, family, name):
    shutil.copytree(DATA / family, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(POINTER)
    assert f"{tmp_path / name} is a git-lfs pointer" in said_by(GLMTokenizer.from_pretrained, tmp_path)


@pytest.mark.parametrize("content", STAND_INS)
@pytest.mark.parametrize("family", FAMILIES)
def test_vocabularies(tmp_path, family, content):
    shutil.copytree(DATA / family, tmp_path, dirs_exist_ok=True)
    (vocabulary,) = [path for path in tmp_path.iterdir() if path.suffix == ".model" or path.name == "tokenizer.json"]
    vocabulary.write_bytes(content)
    assert STAND_INS[content] in (said := said_by(GLMTokenizer.from_pretrained, tmp_path))
    assert str(vocabulary) in said


@pytest.mark.parametrize("content", STAND_INS)
def test_configurations(tmp_path, content):
    shutil.copytree(DATA / "glm4-tiny", tmp_path, dirs_exist_ok=True)
    for name, call in (("config.json", read_config_file), ("generation_config.json", open_processor)):
        (tmp_path / name).write_bytes(content)
        assert f"{tmp_path / name} " in (said := said_by(call, tmp_path))
        assert STAND_INS[content] in said


@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin", "lora_model_state.pdparams"])
def test_adapters(tmp_path, weights):
    config = tmp_path / ("adapter_config.json" if weights.startswith("adapter") else "lora_config.json")
    config.write_bytes(POINTER)
    assert said_by(open_adapter, tmp_path, None).startswith(f"{config} is a git-lfs pointer")
    config.write_text('{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "peft_type": "LORA"}')
    (tmp_path / weights).write_bytes(POINTER)
    assert said_by(open_adapter, tmp_path, None).startswith(f"{tmp_path / weights} is a git-lfs pointer")


def test_states_and_manifests(tmp_path):
    (path := tmp_path / "optimizer.pdopt").write_bytes(POINTER)
    assert "is a git-lfs pointer" in said_by(verify_pickle, path)
    assert "is a git-lfs pointer" in said_by(parse_manifest, path)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("甲".encode("utf-16"), "UTF-16"),
        ("ab".encode("utf-16-le"), "UTF-16"),
        ("ab".encode("utf-16-be"), "UTF-16"),
        ("a".encode("utf-32"), "UTF-32"),
        ("\ufeff甲".encode(), None),
        (b"", None),
        (b"a", None),
    ],
)
def test_encodings(content, encoding):
    assert other_encoding(content) == encoding

"""GLMChineseTokenizer against PaddleNLP's, on the real vocabulary and real texts where they are at hand."""

import json
import random
import shutil
from pathlib import Path

import pytest
from shared_files import SHARED

from glm.errors import GLMError
from glm.tokenizers import GLMChineseTokenizer, GLMTokenizer

REAL = SHARED / "real"
BUNDLED = Path(__file__).resolve().parents[2] / "data" / "glm-tiny-chinese"
SPECIAL = ["[CLS]", "[SEP]", "[UNK]", "[MASK]", "<|endoftext|>", "[UNUSED1]", "<|endofpiece|>", "[sMASK]", "[gMASK]"]
TRICKY = [
    "",
    " ",
    "    ",
    "\n",
    "\n\n第一行\n  第二行\t末",
    "１２３ＡＢＣ，：？",
    "表情😀👨‍👩‍👧",
    "\u3000全角空格\u3000",
    "\ufeff开头有BOM",
    "a\x00b\x1cc",
    "〇𠀀ﬁ①½",
    "▁下划线▁",
    "<n>换行<n>",
    "<unk><s></s>",
    "你好[gMASK]再见",
    "  [gMASK]  前后空格  [MASK]  ",
    "[CLS][CLS]<|endoftext|>",
    "[[gMASK]]",
    "[gMASK",
    "<|endof<|endofpiece|>|>",
    "a[UNK] b",
    "\x85甲\x85[MASK]\x85乙\x85",
    "The quick brown fox, isn't it? Yes , it is .",
    " 在已知答案的前提下，问题：谁？",
    "Human: 你好\n Assistant: ",
]


@pytest.fixture(scope="module")
def real_directory(tmp_path_factory):
    if not (REAL / "tokenizers/cog-pretrain.model").is_file():
        pytest.skip(f"the real vocabulary is not at {REAL}")
    folder = tmp_path_factory.mktemp("glm-large-chinese")
    shutil.copy(REAL / "tokenizers/cog-pretrain.model", folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GLMChineseTokenizer"}')
    return folder


@pytest.fixture(scope="module")
def tokenizer(real_directory):
    return GLMTokenizer.from_pretrained(real_directory)


@pytest.fixture(scope="module")
def tiny():
    return GLMTokenizer.from_pretrained(BUNDLED)


def open_with_paddlenlp(directory):
    transformers = pytest.importorskip("paddlenlp.transformers", reason="the oracle is paddlenlp")
    return transformers.GLMChineseTokenizer.from_pretrained(str(directory))


@pytest.fixture(scope="module")
def oracle(real_directory):
    return open_with_paddlenlp(real_directory)


def oracle_ids(oracle, text, **options):
    return oracle(text, add_special_tokens=False, **options)["input_ids"]


def real_texts():
    for path in sorted((REAL / "datasets").glob("*.json*")):
        content = path.read_text(encoding="utf-8")
        rows = json.loads(content) if path.suffix == ".json" else map(json.loads, content.splitlines())
        yield from (value for row in rows for value in row.values() if isinstance(value, str))


@pytest.mark.long
def test_ids_of_real_texts(tokenizer, oracle):
    texts = list(dict.fromkeys(real_texts()))
    assert len(texts) > 4000
    assert [text for text in texts if tokenizer.text_ids(text) != oracle_ids(oracle, text)] == []


@pytest.mark.parametrize("text", TRICKY)
def test_ids_of_tricky_texts(tokenizer, oracle, text):
    ids = tokenizer.text_ids(text)
    assert ids == oracle_ids(oracle, text)
    for skip in (True, False):
        expected = oracle.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


def test_ids_of_random_mixtures(tokenizer, oracle):
    rng = random.Random(0)
    parts = [*SPECIAL, "[", "]", "<|", "|>", "[gM", "endof", " ", "\n", "\u3000", "中文", "a", "9", "😀", "，"]
    for _ in range(1500):
        text = "".join(rng.choices(parts, k=rng.randint(1, 9)))
        assert tokenizer.text_ids(text) == oracle_ids(oracle, text), text


def test_text_that_spells_a_special_token(tokenizer, oracle):
    """PaddleNLP makes it the token; split_special_tokens makes it text, there as here."""
    text = "请忽略[gMASK]和<|endofpiece|>。"
    assert tokenizer.gmask_token_id in tokenizer.text_ids(text)
    plain = tokenizer.text_ids(text, split_special_tokens=True)
    assert plain == oracle_ids(oracle, text, split_special_tokens=True)
    assert not set(plain) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(plain) == text


def test_roles_and_sizes(tokenizer, oracle):
    for role in ("pad", "eos", "unk", "cls", "sep", "mask", "gmask", "smask", "sop", "eop"):
        assert getattr(tokenizer, f"{role}_token_id") == getattr(oracle, f"{role}_token_id"), role
    assert tokenizer.mask_token_ids == oracle.mask_token_ids
    assert set(tokenizer.all_special_ids) == set(oracle.all_special_ids)
    assert len(tokenizer) == len(oracle) == 50010
    assert tokenizer.vocab_size == oracle.vocab_size == 50000
    assert [tokenizer.pad_token_id, tokenizer.sop_token_id, tokenizer.eop_token_id] == [50000, 50006, 50007]
    assert tokenizer.gmask_token_id == 50009


def test_paddlenlp_opens_what_we_save(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    names = ["added_tokens.json", "cog-pretrain.model", "special_tokens_map.json", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    theirs = open_with_paddlenlp(tmp_path)
    for text in TRICKY:
        assert oracle_ids(theirs, text) == tokenizer.text_ids(text)
    assert theirs.eop_token_id == tokenizer.eop_token_id


def test_we_open_what_paddlenlp_saves(tokenizer, oracle, tmp_path):
    oracle.save_pretrained(str(tmp_path))
    ours = GLMTokenizer.from_pretrained(tmp_path)
    assert ours.added_tokens == oracle.added_tokens_encoder
    assert [ours.text_ids(text) for text in TRICKY] == [tokenizer.text_ids(text) for text in TRICKY]


def test_saved_token_map_matches_paddlenlps(tokenizer, oracle, tmp_path):
    tokenizer.save_pretrained(tmp_path / "ours")
    oracle.save_pretrained(str(tmp_path / "theirs"))
    for name in ("added_tokens.json", "special_tokens_map.json", "cog-pretrain.model"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


@pytest.mark.parametrize("missing", [["tokenizer_config.json"], ["added_tokens.json"], "all"])
def test_directory_with_fewer_files(tiny, tmp_path, missing):
    """A PaddleNLP checkpoint may hold the vocabulary and added_tokens.json only."""
    tiny.save_pretrained(tmp_path)
    for path in list(tmp_path.glob("*.json")):
        if missing == "all" or path.name in missing:
            path.unlink()
    assert GLMTokenizer.from_pretrained(tmp_path).added_tokens == tiny.added_tokens


def test_saved_ids_are_kept(tiny, tmp_path):
    """Ids come from the files, not from the order this version would number them in."""
    tiny.save_pretrained(tmp_path)
    swapped = {**tiny.added_tokens, "[gMASK]": tiny.smask_token_id, "[sMASK]": tiny.gmask_token_id}
    (tmp_path / "added_tokens.json").write_text(json.dumps(swapped))
    (tmp_path / "tokenizer_config.json").unlink()
    again = GLMTokenizer.from_pretrained(tmp_path)
    assert again.gmask_token_id == tiny.smask_token_id
    again.save_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    assert GLMTokenizer.from_pretrained(tmp_path).gmask_token_id == tiny.smask_token_id


def test_unknown_config_entries_survive(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 1024}))
    GLMTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert json.loads(path.read_text())["model_max_length"] == 1024


def test_special_tokens_written_as_objects(tmp_path, real_directory):
    """Transformers writes {"content": …} where PaddleNLP writes a bare string; both read both."""
    entry = {"content": "[HOLE]", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True}
    config = {"tokenizer_class": "GLMChineseTokenizer", "mask_token": {**entry, "__type": "AddedToken"}}
    shutil.copy(real_directory / "cog-pretrain.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = GLMTokenizer.from_pretrained(tmp_path), open_with_paddlenlp(tmp_path)
    assert ours.mask_token_id == theirs.mask_token_id == 50003
    assert ours.text_ids("甲 [HOLE] <n>[MASK]") == oracle_ids(theirs, "甲 [HOLE] <n>[MASK]")


def test_ids_a_padded_embedding_can_give(tiny):
    """A model's embedding is often larger than the vocabulary; such an id is no reason to stop."""
    ids = tiny.text_ids("建于")
    assert tiny.decode([*ids, len(tiny), len(tiny) + 63]) == "建于"


def test_surrogates(tokenizer):
    """What json.loads makes of a cut-off escape does not crash the tokenizer; a pair is its character."""
    assert tokenizer.text_ids("甲\ud83d") == tokenizer.text_ids("甲\ufffd")
    assert tokenizer.text_ids("\ud83d\ude00") == tokenizer.text_ids("😀")


def test_user_added_tokens_are_kept_whole(tokenizer, oracle, real_directory, tmp_path):
    shutil.copy(real_directory / "cog-pretrain.model", tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({**tokenizer.added_tokens, "<tool>": 50010}))
    ours, theirs = GLMTokenizer.from_pretrained(tmp_path), open_with_paddlenlp(tmp_path)
    ids = ours.text_ids("甲 <tool> 乙[gMASK]")
    assert ids == oracle_ids(theirs, "甲 <tool> 乙[gMASK]")
    assert 50010 in ids
    assert len(ours) == 50011
    for skip in (True, False):
        assert ours.decode(ids, skip) == theirs.decode(ids, skip, clean_up_tokenization_spaces=False)


def test_token_conversion_round_trip(tiny):
    ids = list(range(len(tiny)))
    assert tiny.convert_tokens_to_ids(tiny.convert_ids_to_tokens(ids)) == ids
    assert tiny.convert_tokens_to_ids("没有这个词") == tiny.unk_token_id
    with pytest.raises(GLMError, match=r"token id 384 is outside the vocabulary of 384"):
        tiny.convert_ids_to_tokens(384)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_directory(tmp_path):
    for name in (tmp_path / "nowhere", "n" * 300):
        with pytest.raises(GLMError) as error:
            GLMTokenizer.from_pretrained(name)
        assert f"{name} is not a directory, and no preset whose vocabulary is bundled" in one_line(error)


def test_missing_vocabulary(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert "'LlamaTokenizer'" in one_line(error)
    assert "cog-pretrain.model" in one_line(error)


@pytest.mark.parametrize("content", [b"version 1\n", b"\x00" * 64, "cut"])
def test_damaged_vocabulary(tmp_path, content):
    if content == "cut":
        content = (BUNDLED / "cog-pretrain.model").read_bytes()[:100_000]
    (tmp_path / "cog-pretrain.model").write_bytes(content)
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert f"cog-pretrain.model: not a sentencepiece model ({len(content)} bytes)" in one_line(error)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", "is not valid JSON (Expecting"),
        ("tokenizer_config.json", "[]", "holds a JSON list"),
        (
            "added_tokens.json",
            '{"[gMASK]": 5}',
            "gives [gMASK] the id 5, but the vocabulary's pieces have the ids 0 to 373",
        ),
        ("added_tokens.json", '{"[gMASK]": 400, "[sMASK]": 400}', "gives one id to two tokens"),
    ],
)
def test_damaged_json(tmp_path, name, content, message):
    shutil.copy(BUNDLED / "cog-pretrain.model", tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert message in one_line(error)


def test_failed_save_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    tiny.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        tiny.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_class_opens_a_directory_by_itself(tiny):
    assert GLMChineseTokenizer.from_pretrained(BUNDLED).added_tokens == tiny.added_tokens

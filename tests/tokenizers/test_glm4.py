"""The tokenizers of GLM-4-9B and GLM-4-0414: ids, specials, files, and that both vocabularies agree."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import glm4_samples as samples
import pytest
import tokenizers
from glm4_samples import CHAT, CHAT_IDS, EXAMPLE, EXAMPLE_IDS, PIECE_COUNT, ranks
from shared_files import SHARED

from glm.errors import GLMError
from glm.tokenizers import GLM4JsonTokenizer, GLM4Tokenizer, GLMTokenizer, StreamDecoder
from glm.tokenizers.added_tokens import AddedToken, Splitter
from glm.tokenizers.byte_pairs import PIECE_PATTERN
from glm.tokenizers.glm4 import SPECIAL_TOKENS

DATA = Path(__file__).resolve().parents[2] / "data"
REAL = SHARED / "real"
FOLDERS = ["glm4-tiny", "glm4-0414-tiny"]
TRICKY = [
    "",
    " ",
    "\n\n  第一行\n\t末 \r\n",
    "I'LL go, YOU'RE here 12345678.90",
    "１２３ＡＢＣ，：？\u3000",
    "😀👨‍👩‍👧 e\u0301 𠀀 \x00\ufeff",
    "<|user|>\n你好<|assistant|>",
    "  [gMASK]  <sop> 前后空格  ",
    "<|user|",
    "[[gMASK]]<|endoftext|><|endoftext|>",
    "a" * 5000,
]


@pytest.fixture(scope="module", params=FOLDERS)
def tokenizer(request):
    return GLMTokenizer.from_pretrained(DATA / request.param)


@pytest.fixture(scope="module")
def pair():
    return [GLMTokenizer.from_pretrained(DATA / name) for name in FOLDERS]


@pytest.fixture(scope="module")
def real_sized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glm-4-9b")
    (folder / "tokenizer.model").write_bytes(ranks())
    return GLMTokenizer.from_pretrained(folder)


def real_texts():
    if not REAL.is_dir():
        pytest.skip(f"the real texts are not at {REAL}")
    for path in sorted((REAL / "datasets").glob("*.json*")):
        content = path.read_text(encoding="utf-8")
        rows = json.loads(content) if path.suffix == ".json" else map(json.loads, content.splitlines())
        yield from (value for row in rows for value in row.values() if isinstance(value, str))


def test_published_ids(real_sized):
    """chatglm.cpp's and MindFormers' test ids, as far as they can be had without the vocabulary."""
    assert real_sized.build_inputs(real_sized.text_ids("你好")) == [151331, 151333, 109377]
    assert real_sized.build_inputs(real_sized.text_ids(EXAMPLE)) == [151331, 151333, *EXAMPLE_IDS]
    assert real_sized.vocab_size == PIECE_COUNT == 151329
    assert len(real_sized) == 151343
    assert real_sized.convert_ids_to_tokens(24) == "9"
    assert real_sized.convert_ids_to_tokens(EXAMPLE_IDS[:3]) == ["An", " increasing", " sequence"]
    assert real_sized.stop_token_ids == [151329, 151336, 151338]
    assert (real_sized.pad_token_id, real_sized.eos_token_id, real_sized.mask_token_id) == (151329, 151329, 151330)
    assert (real_sized.gmask_token_id, real_sized.sop_token_id) == (151331, 151333)


def test_digits_and_contractions_are_cut_as_published(real_sized):
    assert real_sized.text_ids(samples.DIGITS) == samples.DIGIT_IDS
    assert real_sized.text_ids(samples.WORDS) == samples.WORD_IDS


def test_what_a_text_is_cut_into():
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PIECE_PATTERN), "isolated")
    text = "I'LLx it'sy 1234 (好的) !?\n\n  \n   x  "
    parts = ["I", "'LL", "x", " it", "'s", "y", " ", "123", "4", " (", "好的", ")", " !?\n\n", "  \n", "  ", " x", "  "]
    assert [part for part, _ in cut.pre_tokenize_str(text)] == parts


def test_samples_are_the_published_ids():
    path = REAL / "reference_ids/reference_ids.json"
    if not path.is_file():
        pytest.skip(f"the reference ids are not at {REAL}")
    cases = json.loads(path.read_text(encoding="utf-8"))["glm-4-9b"]["cases"]
    chats = [case for case in cases if len(case.get("chat", [])) == 3]
    assert [(message["role"], message["content"]) for message in CHAT] == [tuple(turn) for turn in chats[0]["chat"]]
    assert chats[0]["ids"] == CHAT_IDS
    assert [case["ids"][2:] for case in cases if case.get("text") == EXAMPLE] == [EXAMPLE_IDS]
    source = (path.parent / "glm4_chktxt_from_chatglm_cpp.txt").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"\d+", source.partition("ref_ids{")[2].partition("}")[0])]
    assert samples.DIGITS[1:] in source
    for part in (samples.DIGIT_IDS, samples.WORD_IDS):
        assert any(numbers[i : i + len(part)] == part for i in range(len(numbers)))


def test_published_special_ids(real_sized):
    """The added tokens of GLM-4-9B-chat's tokenizer_config.json."""
    path = REAL / "tokenizers/glm-4-9b-chat.tokenizer_config.json"
    if not path.is_file():
        pytest.skip(f"the real tokenizer_config.json is not at {REAL}")
    published = json.loads(path.read_text(encoding="utf-8"))
    decoder = published["added_tokens_decoder"]
    assert {entry["content"]: int(index) for index, entry in decoder.items()} == real_sized.added_tokens
    assert published["additional_special_tokens"] == list(SPECIAL_TOKENS)


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip_and_agreement(pair, text):
    ids = pair[0].text_ids(text)
    assert ids == pair[1].text_ids(text)
    for tokenizer in pair:
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        plain = tokenizer.text_ids(text, split_special_tokens=True)
        assert tokenizer.decode(plain) == text
        assert not set(plain) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("text", TRICKY)
def test_ids_are_the_librarys(text):
    """Our own cutting at special tokens gives what the library `tokenizers` gives when it cuts."""
    library = tokenizers.Tokenizer.from_file(str(DATA / "glm4-0414-tiny/tokenizer.json"))
    ours = GLMTokenizer.from_pretrained(DATA / "glm4-0414-tiny")
    assert ours.text_ids(text) == library.encode(text, add_special_tokens=False).ids


def test_tokens_that_take_their_spaces_along(tmp_path):
    """lstrip and rstrip of an added token, as the library cuts."""
    library = tokenizers.Tokenizer.from_file(str(DATA / "glm4-0414-tiny/tokenizer.json"))
    flags = {"normalized": False, "special": False}
    library.add_tokens([tokenizers.AddedToken("<l>", lstrip=True, **flags), tokenizers.AddedToken("<r>", rstrip=True)])
    library.save(str(tmp_path / "tokenizer.json"))
    ours = GLMTokenizer.from_pretrained(tmp_path)
    for text in ("a <l> b", "a <r>  b", "<l><r> <l>", " \n<l>\n"):
        ids = ours.text_ids(text)
        assert ids == library.encode(text, add_special_tokens=False).ids, text
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=True)


def test_of_two_tokens_the_longer_is_meant():
    splitter = Splitter([AddedToken("<a>", 1), AddedToken("<a>b", 2), AddedToken("z", 3, special=False)])

    def split(text):
        return [part if isinstance(part, str) else part.id for part in splitter.split(text)]

    assert split("x<a>b<a>z") == ["x", 2, 1, 3]
    assert split("<a>" + splitter.mark("<a>b <a> z")) == [1, "<a>b <a> ", 3]


@pytest.mark.long
def test_real_texts(pair):
    texts = list(dict.fromkeys(real_texts()))
    assert len(texts) > 4000
    for text in texts:
        ids = pair[0].text_ids(text)
        assert ids == pair[1].text_ids(text)
        assert pair[0].decode(ids) == pair[1].decode(ids) == text


def test_streaming_shows_no_half_character(tokenizer):
    rng = random.Random(3)
    text = "古字𪚥与👨‍👩‍👧 é 云溪桥建于1920年\n"
    ids = tokenizer.text_ids(text)
    assert len(ids) > len(text)  # characters come in several tokens
    decoder = StreamDecoder(tokenizer)
    parts = [*map(decoder.put, ids), decoder.end()]
    assert "".join(parts) == text
    assert "\ufffd" not in "".join(parts)
    for _ in range(300):
        ids = rng.choices(range(len(tokenizer) + 2), k=20)
        assert "".join([*map(decoder.put, ids), decoder.end()]) == tokenizer.decode(ids, skip_special_tokens=True)


def test_special_tokens_are_skipped_inside_a_character(tokenizer):
    first, *rest = tokenizer.text_ids("𪚥")
    ids = [first, tokenizer.eos_token_id, *rest, len(tokenizer), len(tokenizer) + 63]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "𪚥"
    assert "<|endoftext|>" in tokenizer.decode(ids, skip_special_tokens=False)


def test_surrogates(tokenizer):
    assert tokenizer.text_ids("甲\ud83d") == tokenizer.text_ids("甲\ufffd")
    assert tokenizer.text_ids("\ud83d\ude00", split_special_tokens=True) == tokenizer.text_ids("😀")


def test_token_conversion(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<|user|>", "[gMASK]"]) == [761, 756]
    assert tokenizer.convert_ids_to_tokens([761, 754]) == ["<|user|>", "<|endoftext|>"]
    assert tokenizer.convert_tokens_to_ids("没有这个词") is None
    with pytest.raises(GLMError, match=r"token id 768 is outside the vocabulary of 768"):
        tokenizer.convert_ids_to_tokens(768)


@pytest.mark.parametrize("name", FOLDERS)
def test_saving_writes_the_same_bytes(name, tmp_path):
    shutil.copytree(DATA / name, tmp_path / "a")
    extra = {
        "merges.txt": b"#version\n",
        "special_tokens_map.json": b"{}",
        "tokenization_chatglm.py": b"raise SystemExit",
    }
    for file, content in extra.items():
        (tmp_path / "a" / file).write_bytes(content)
    config = json.loads((tmp_path / "a/tokenizer_config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}
    (tmp_path / "a/tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "a/additional_chat_templates").mkdir()
    (tmp_path / "a/additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    (tmp_path / "a/model.safetensors").write_bytes(b"no part of a tokenizer")
    GLMTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    (tmp_path / "a/model.safetensors").unlink()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_vocabulary_file_alone(tmp_path, real_sized):
    """A directory with tokenizer.model only gets the special tokens, and a tokenizer_config.json when it is saved."""
    real_sized.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["added_tokens_decoder"]["151337"]["content"] == "<|assistant|>"
    assert GLMTokenizer.from_pretrained(tmp_path).added_tokens == real_sized.added_tokens


def test_directory_with_both_files(tmp_path):
    """tokenizer_class decides; without one, tokenizer.model comes first."""
    for name in FOLDERS:
        shutil.copytree(DATA / name, tmp_path, dirs_exist_ok=True)
    assert isinstance(GLMTokenizer.from_pretrained(tmp_path), GLM4JsonTokenizer)
    (tmp_path / "tokenizer_config.json").unlink()
    assert isinstance(GLMTokenizer.from_pretrained(tmp_path), GLM4Tokenizer)


def good(name):
    return (DATA / "glm4-tiny" / name).read_bytes()


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
        (good("tokenizer.model").replace(b" 300\n", b" 301\n"), "line 301 is not a new base64 token and the rank 300"),
        (good("tokenizer.model")[:1500], "of the 256 single bytes have no rank (1500 bytes)"),
        (good("tokenizer.model")[:7001], "is not a new base64 token"),
        (b"", "is empty: copy or download it again"),
        (b"\x80\x04\x95.", "line 1 is not"),
        (good("tokenizer.model")[:7000].rpartition(b"\n")[0], "gives <|endoftext|> the id 754"),
    ],
)
def test_damaged_ranks(tmp_path, content, message):
    (tmp_path / "tokenizer.model").write_bytes(content)
    if "endoftext" in message:
        config = good("tokenizer_config.json").replace(b'"754"', b'"100"')
        (tmp_path / "tokenizer_config.json").write_bytes(config)
        message = "gives <|endoftext|> the id 100, but the vocabulary's pieces have the ids 0 to"
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert message in one_line(error)
    assert str(tmp_path / "tokenizer.model") in str(error.value)


@pytest.mark.parametrize(
    "content", [b"\n", b"{", b"[]", b'{"version": "1.0"}', b"\xff\xfe", b"version https://git-lfs\n"]
)
def test_damaged_json_vocabulary(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert "tokenizer.json: not a tokenizer of the library tokenizers" in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"added_tokens_decoder": {"754": {"content": "<|user|>"}}}, "gives the id 754 to <|user|>, tokenizer.json to"),
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder is damaged"),
        ({"added_tokens_decoder": []}, None),
        ({"chat_template": 5}, "chat_template is not text"),
        ({"chat_template": "{% if %}"}, "the chat template has an error in line 1"),
        ({"pad_token": "<pad>"}, "the vocabulary lacks <pad>, so it is not that of a glm4-0414 model"),
    ],
)
def test_damaged_config(tmp_path, change, message):
    shutil.copy(DATA / "glm4-0414-tiny/tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(change))
    if message is None:
        assert GLMTokenizer.from_pretrained(tmp_path).stop_token_ids == [754, 761, 763]
        return
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert message in one_line(error)


def test_another_models_tokenizer_json(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert "lacks <sop>, <|endoftext|>, <|observation|>, <|user|>, [gMASK]" in one_line(error)


def test_two_tokens_with_one_id(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(good("tokenizer.model"))
    config = good("tokenizer_config.json").replace(b'"[MASK]"', b'"[gMASK]"', 1)
    (tmp_path / "tokenizer_config.json").write_bytes(config)
    with pytest.raises(GLMError, match=r"names '\[gMASK\]' twice among its added tokens"):
        GLMTokenizer.from_pretrained(tmp_path)


def test_neither_paddle_nor_paddlenlp_is_imported():
    code = "import sys, glm.encoding.chat_formats, glm.tokenizers\n"
    code += "print(sorted({'paddle', 'paddlenlp', 'torch'} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=DATA.parent)
    assert result.stdout == "[]\n"


def test_nothing_in_a_directory_is_run(tmp_path):
    shutil.copytree(DATA / "glm4-tiny", tmp_path, dirs_exist_ok=True)
    (tmp_path / "a").mkdir()
    for code in ("tokenization_chatglm.py", "a/b.py"):
        (tmp_path / code).write_text("raise SystemExit('ran')")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoTokenizer": ["../evil.X", "a/b.Y", "tokenization_chatglm.Z", None]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    GLMTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"tokenizer.model", "tokenizer_config.json", "tokenization_chatglm.py"}

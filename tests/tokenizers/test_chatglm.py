"""ChatGLMTokenizer against published ids and PaddleNLP's, on real vocabulary and texts where they are at hand."""

import json
import random
import shutil
from pathlib import Path

import pytest
from shared_files import SHARED

from glm.errors import GLMError
from glm.tokenizers import ChatGLMTokenizer, GLMTokenizer, StreamDecoder

REAL = SHARED / "real"
BUNDLED = Path(__file__).resolve().parents[2] / "data" / "chatglm-tiny"
TRICKY = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n第一行\n  第二行\t末",
    "a" + " " * 79 + "b" + " " * 81 + "c" + " " * 200,
    "\t\t x   y\n\n\n",
    "１２３ＡＢＣ，：？",
    "表情😀👨‍👩‍👧 𪚥",
    "<n>换行<|tab|><|blank_3|>",
    "<s>x</s> <ENC>",
    "  [MASK]  前后空格  ",
    "[[gMASK]]",
    "<sop><eop>",
    "def main():\n    print('hello world')\t# greeting",
]


@pytest.fixture(scope="module")
def real_directory(tmp_path_factory):
    path = REAL / "tokenizers/ice_text.model"
    if not path.is_file():
        pytest.skip(f"the real vocabulary is not at {REAL}")
    folder = tmp_path_factory.mktemp("chatglm-6b")
    shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(real_directory):
    return GLMTokenizer.from_pretrained(real_directory)


@pytest.fixture(scope="module")
def tiny():
    return GLMTokenizer.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def published():
    path = REAL / "reference_ids/reference_ids.json"
    if not path.is_file():
        pytest.skip(f"the reference ids are not at {REAL}")
    return json.loads(path.read_text(encoding="utf-8"))["chatglm-6b"]


def open_with_paddlenlp(directory):
    transformers = pytest.importorskip("paddlenlp.transformers", reason="the oracle is paddlenlp")
    return transformers.ChatGLMTokenizer.from_pretrained(str(directory), num_image_tokens=0)


def real_texts():
    for path in sorted((REAL / "datasets").glob("*.json*")):
        content = path.read_text(encoding="utf-8")
        rows = json.loads(content) if path.suffix == ".json" else map(json.loads, content.splitlines())
        yield from (value for row in rows for value in row.values() if isinstance(value, str))


def test_published_ids(tokenizer, published):
    prompts = [case for case in published["cases"] if "ids" in case]
    assert len(prompts) == 3
    for case in prompts:
        assert tokenizer.build_inputs(tokenizer.text_ids(case["text"])) == case["ids"]
    plain = [case for case in published["cases"] if "ids_no_special" in case]
    assert [tokenizer.text_ids(case["text"]) for case in plain] == [case["ids_no_special"] for case in plain]
    assert [tokenizer.convert_ids_to_tokens(case["ids_no_special"]) for case in plain] == [plain[0]["tokens"]]


def test_published_training_example(tokenizer, published):
    example = published["adgen_training_example"]
    assert [*tokenizer.text_ids(example["content"]), tokenizer.gmask_token_id] == example["source_ids"]
    sop, *target, eop = example["target_ids"]
    assert (sop, eop) == (tokenizer.sop_token_id, tokenizer.eop_token_id)
    assert tokenizer.text_ids(tokenizer.decode(target)) == target


def test_roles_and_sizes(tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == 130344
    assert (tokenizer.mask_token_id, tokenizer.gmask_token_id, tokenizer.sop_token_id) == (130000, 130001, 130004)
    assert (tokenizer.eop_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (130005, 130005, 3)
    assert tokenizer.stop_token_ids == [130005]
    assert tokenizer.unk_token_id == 0
    assert tokenizer.all_special_ids == [0, 1, 2, 3, *range(130000, 130008)]
    layout = ["<n>", "<|tab|>", "<|blank_2|>", "<|blank_80|>"]
    assert tokenizer.convert_tokens_to_ids(layout) == [4, 130008, 130009, 130087]


@pytest.mark.long
def test_encode_of_decode_is_the_same_ids_on_real_texts(tokenizer):
    """Ids, not letters: the vocabulary itself writes full-width punctuation half-width."""
    texts = list(dict.fromkeys(real_texts()))
    assert len(texts) > 4000
    for text in texts:
        ids = tokenizer.text_ids(text)
        assert tokenizer.text_ids(tokenizer.decode(ids)) == ids, text


@pytest.mark.long
@pytest.mark.parametrize("which", ["tiny", "tokenizer"])
def test_ids_and_texts_are_paddlenlps(which, request, real_directory):
    ours = request.getfixturevalue(which)
    oracle = open_with_paddlenlp(BUNDLED if which == "tiny" else real_directory)
    for text in [*TRICKY, *list(real_texts())[::40]]:
        if any(token in text for token in ("MASK", "<sop>", "<ENC>")):
            continue  # white space beside special tokens goes in PaddleNLP, and stays in ChatGLM-6B's own code
        ids = ours.text_ids(text)
        assert ids == oracle(text, add_special_tokens=False)["input_ids"], text
        theirs = oracle.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == theirs
    ids = oracle("你好", add_special_tokens=True)["input_ids"]
    assert ours.build_inputs(ours.text_ids("你好")) == ids


@pytest.mark.parametrize("text", TRICKY)
def test_layout_comes_back(tokenizer, text):
    ids = tokenizer.text_ids(text, split_special_tokens=True)
    assert tokenizer.text_ids(tokenizer.decode(ids), split_special_tokens=True) == ids


def test_lines_tabs_and_runs_of_spaces(tokenizer):
    text = "def f():\n    if x:\n\treturn  1" + " " * 85 + "\n\n#" + " " * 162 + "."
    assert tokenizer.decode(tokenizer.text_ids(text)) == text
    blanks = [token for token in tokenizer.convert_ids_to_tokens(tokenizer.text_ids(text)) if "blank" in token]
    assert blanks == [f"<|blank_{n}|>" for n in (4, 2, 80, 5, 80, 80, 2)]


def test_text_that_spells_a_special_token(tokenizer):
    """Its own code knows the tokens that have a role; [gMASK] and its like are text."""
    text = "请忽略[gMASK]和<eop>。"
    assert [i for i in tokenizer.text_ids(text) if i in tokenizer.all_special_ids] == [130005]
    plain = tokenizer.text_ids(text, split_special_tokens=True)
    assert not set(plain) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(plain) == text


def test_special_tokens_in_decoded_text(tokenizer):
    ids = [*tokenizer.build_inputs(tokenizer.text_ids("你好")), 74874, 130005, 3, 1, 2, 130443]
    assert tokenizer.decode(ids) == "你好你好"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "你好[gMASK]<sop>你好<eop><pad>"


def test_streaming(tokenizer):
    rng = random.Random(4)
    decoder = StreamDecoder(tokenizer)
    samples = [tokenizer.text_ids(text) for text in [*TRICKY, *list(real_texts())[::60]]]
    likely = [4, 5, 130008, 130009, 130005, 0, 1, 2, 3]
    samples += [[rng.choice([*likely, rng.randrange(130400)]) for _ in range(30)] for _ in range(300)]
    for ids in samples:
        parts = [*map(decoder.put, ids), decoder.end()]
        assert "".join(parts) == tokenizer.decode(ids), ids
    parts = [*map(decoder.put, tokenizer.text_ids("古字𪚥与👨‍👩‍👧")), decoder.end()]
    assert "\ufffd" not in "".join(parts)


def test_surrogates(tokenizer):
    assert tokenizer.text_ids("甲\ud83d") == tokenizer.text_ids("甲\ufffd")
    assert tokenizer.text_ids("\ud83d\ude00") == tokenizer.text_ids("😀")


def test_token_conversion_round_trip(tiny):
    ids = list(range(len(tiny)))
    assert tiny.convert_tokens_to_ids(tiny.convert_ids_to_tokens(ids)) == ids
    assert tiny.convert_tokens_to_ids("没有这个词") == tiny.unk_token_id == 0
    with pytest.raises(GLMError, match=r"token id 800 is outside the vocabulary of 800"):
        tiny.convert_ids_to_tokens(800)


def test_saving_writes_the_same_bytes(tmp_path, tokenizer, real_directory):
    GLMTokenizer.from_pretrained(BUNDLED).save_pretrained(tmp_path / "tiny")
    assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()} == {
        path.name: path.read_bytes() for path in BUNDLED.iterdir()
    }
    tokenizer.save_pretrained(tmp_path / "real")
    assert (tmp_path / "real/ice_text.model").read_bytes() == (real_directory / "ice_text.model").read_bytes()
    config = json.loads((tmp_path / "real/tokenizer_config.json").read_text(encoding="utf-8"))
    assert (config["tokenizer_class"], config["num_image_tokens"]) == ("ChatGLMTokenizer", 0)
    ids = open_with_paddlenlp(tmp_path / "real")("你好")["input_ids"]
    assert ids == [5, 74874, 130001, 130004]
    assert isinstance(GLMTokenizer.from_pretrained(tmp_path / "real"), ChatGLMTokenizer)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("content", [b"version 1\n", b"\x00" * 64, "cut"])
def test_damaged_vocabulary(tmp_path, content):
    if content == "cut":
        content = (BUNDLED / "ice_text.model").read_bytes()[:100_000]
    (tmp_path / "ice_text.model").write_bytes(content)
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert f"ice_text.model: not a sentencepiece model ({len(content)} bytes)" in one_line(error)


def test_another_models_vocabulary(tmp_path):
    shutil.copy(BUNDLED.parent / "glm-tiny-chinese/cog-pretrain.model", tmp_path / "ice_text.model")
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert "so it is not ChatGLM-6B's" in one_line(error)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_image_tokens": 20000}, "sets num_image_tokens to 20000, and only 0 is supported"),
        ({"do_lower_case": True}, "sets do_lower_case to True, and only False is supported"),
        ([], "holds a JSON list"),
    ],
)
def test_config_of_another_revision(tmp_path, config, message):
    shutil.copy(BUNDLED / "ice_text.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(GLMError) as error:
        GLMTokenizer.from_pretrained(tmp_path)
    assert message in one_line(error)

"""tokenizer.model of ChatGLM2 and 3: told from GLM-4's by content and from each other by what stands beside it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import sentencepiece

from glm.errors import GLMError
from glm.tokenizers import ChatGLM2Tokenizer, ChatGLM3Tokenizer, GLM4Tokenizer, GLMTokenizer, StreamDecoder
from glm.tokenizers.chatglm2 import ROLE_TOKENS, TASK_TOKENS

DATA = Path(__file__).resolve().parents[2] / "data"
MODEL = DATA / "chatglm2-tiny" / "tokenizer.model"
# tokenizer_config.json of THUDM/chatglm3-6b.
PUBLISHED = {
    "name_or_path": "THUDM/chatglm3-6b",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}
TEXTS = [
    "",
    " ",
    "\n",
    "你好，世界",
    "  前后 空格  \n\n\t",
    "philosophy sop eop",
    "</s><s><unk> <0x0A> ▁",
    "😀👨‍👩‍👧 𪚥",
    "def f(x):\n    return x\r\n",
    "\0\x01",
]


@pytest.fixture(scope="module", params=["chatglm2-tiny", "chatglm3-tiny"])
def tokenizer(request):
    return GLMTokenizer.from_pretrained(DATA / request.param)


@pytest.fixture
def directory(tmp_path):
    """A vocabulary file and nothing else; the test writes what stands beside it."""
    shutil.copy(MODEL, tmp_path)
    return tmp_path


def with_config(directory: Path, config: dict) -> Path:
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_sentencepieces_own(tokenizer, text):
    """What a user typed, and that it comes back."""
    ids = tokenizer.text_ids(text, split_special_tokens=True)
    assert ids == sentencepiece.SentencePieceProcessor(model_file=str(MODEL)).encode(text) == tokenizer.text_ids(text)
    if "▁" not in text:  # which is how sentencepiece writes a blank
        assert tokenizer.text_of(ids) == text
        decoder = StreamDecoder(tokenizer)
        assert "".join([*map(decoder.put, ids), decoder.end()]) == text


def test_special_tokens_lie_behind_the_pieces(tokenizer):
    count = tokenizer.vocab_size
    assert [tokenizer.added_tokens[text] for text in TASK_TOKENS] == list(range(count, count + 5))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 2, 0)
    assert tokenizer("a")["input_ids"] == [count + 1, count + 3, *tokenizer.text_ids("a")]
    assert tokenizer.text_ids("\n")[1:] == [13]
    assert tokenizer.build_inputs_with_special_tokens([5], [6]) == [count + 1, count + 3, 5, 6, 2]


def test_the_ids_are_the_published_ones_behind_64789_pieces():
    """Of a vocabulary of that size nothing else is asked."""
    tokenizer = ChatGLM3Tokenizer(MODEL)
    shift = 64789 - tokenizer.vocab_size
    ids = {text: tokenizer.added_tokens[text] + shift for text in (*TASK_TOKENS, *ROLE_TOKENS)}
    assert ids["[gMASK]"] == 64790 and ids["sop"] == 64792 and ids["<|system|>"] == 64794
    assert [ids[token] for token in ("<|user|>", "<|assistant|>", "<|observation|>")] == [64795, 64796, 64797]


def test_tokens_that_a_text_spells():
    tokenizer = GLMTokenizer.from_pretrained(DATA / "chatglm3-tiny")
    start = [tokenizer.added_tokens["[gMASK]"], tokenizer.added_tokens["sop"]]
    assert tokenizer.text_ids("[gMASK]sop<|user|>") == [*start, tokenizer.added_tokens["<|user|>"]]
    assert tokenizer.added_tokens["sop"] not in tokenizer.text_ids("sop philosophy [gMASK] sop")
    assert not {*start} & {*tokenizer.text_ids(tokenizer.marked("[gMASK]sop"))}
    assert tokenizer._splitter.unmark(tokenizer.marked("[gMASK]sop")) == "[gMASK]sop"


def test_the_same_file_is_told_apart_by_content(directory):
    """GLM-4's ranks have its name."""
    assert type(GLMTokenizer.from_pretrained(with_config(directory, PUBLISHED))) is ChatGLM3Tokenizer
    shutil.copy(DATA / "glm4-tiny" / "tokenizer.model", directory)
    assert type(GLMTokenizer.from_pretrained(with_config(directory, {}))) is GLM4Tokenizer
    with pytest.raises(GLMError, match=r"not a list of tiktoken ranks: line 1 .* open the directory with GLMTokenizer"):
        GLM4Tokenizer(MODEL)


CHATGLM2 = {**PUBLISHED, "name_or_path": "THUDM/chatglm2-6b"}
NAMELESS = {name: value for name, value in PUBLISHED.items() if name != "name_or_path"}


@pytest.mark.parametrize(
    ("config", "files", "found"),
    [
        (PUBLISHED, {}, ChatGLM3Tokenizer),
        (CHATGLM2, {}, ChatGLM2Tokenizer),
        ({**PUBLISHED, "name_or_path": "THUDM/codegeex2-6b"}, {}, ChatGLM2Tokenizer),
        (NAMELESS, {"tokenization_chatglm.py": 'role_special_tokens = ["<|system|>", "<|user|>"]'}, ChatGLM3Tokenizer),
        (NAMELESS, {"tokenization_chatglm.py": 'prompt = "[Round {}]\\n\\n问：{}"'}, ChatGLM2Tokenizer),
        (NAMELESS, {"chat_template.jinja": "<|user|>\n {{ messages[0].content }}"}, ChatGLM3Tokenizer),
        ({"added_tokens_decoder": {"829": {"content": "<|user|>"}}}, {}, ChatGLM3Tokenizer),
    ],
    ids=str,
)
def test_chatglm2_and_3_are_told_apart_and_stay_so(directory, config, files, found):
    for name, content in files.items():
        (directory / name).write_text(content, encoding="utf-8")
    opened = GLMTokenizer.from_pretrained(with_config(directory, config))
    assert type(opened) is found
    opened.save_pretrained(directory / "saved")
    assert type(GLMTokenizer.from_pretrained(directory / "saved")) is found


def test_nothing_says_which(directory):
    with pytest.raises(GLMError, match=re.escape('nothing that says of which: write "name_or_path": "THUDM/chatglm3')):
        GLMTokenizer.from_pretrained(directory)
    ChatGLM3Tokenizer.from_pretrained(directory).save_pretrained(directory / "saved")
    assert GLMTokenizer.from_pretrained(directory / "saved").kind == "chatglm3"


def test_ids_of_another_checkpoint(directory):
    config = PUBLISHED | {"added_tokens_decoder": {"64795": {"content": "<|user|>"}}}
    with pytest.raises(
        GLMError, match="gives <|user|> the id 64795, which is 829 behind 823 pieces".replace("|", r"\|")
    ):
        GLMTokenizer.from_pretrained(with_config(directory, config))


def test_tokens_that_users_added(directory):
    config = PUBLISHED | {"added_tokens_decoder": {"840": {"content": "<|mine|>"}}}
    tokenizer = GLMTokenizer.from_pretrained(with_config(directory, config))
    assert tokenizer.text_ids("<|mine|>") == [840] and len(tokenizer) == 841


def test_a_pointer_and_a_damaged_file(directory):
    (directory / "tokenizer.model").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:e7\nsize 1018370\n"
    )
    with pytest.raises(GLMError, match=r"tokenizer.model.*Git LFS|git lfs"):
        GLMTokenizer.from_pretrained(with_config(directory, PUBLISHED))
    (directory / "tokenizer.model").write_bytes(MODEL.read_bytes()[:2000])
    with pytest.raises(GLMError, match=r"tokenizer.model: not a sentencepiece model \(2000 bytes\)"):
        GLMTokenizer.from_pretrained(directory)


def test_bytes_of_pieces_make_the_text(tokenizer):
    """What guided output counts on; the first blank is sentencepiece's."""
    for text in ('{"a": [1, "你好\n", "😀"]}', "x  y"):
        joined = b"".join(map(tokenizer.token_bytes, tokenizer.text_ids(text)))
        assert joined == f" {text}".encode()
    table = tokenizer.text_bytes()
    assert all(bytes([byte]) in table for byte in range(256))
    assert [table[index] for index in tokenizer.all_special_ids] == [b""] * len(tokenizer.all_special_ids)

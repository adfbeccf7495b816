"""Bytes of tokens: joined they are the text, for every tokenizer and whatever the ids are."""

import random
import re
import shutil
from pathlib import Path

import pytest
from glm4_samples import ranks
from shared_files import SHARED

from glm.errors import GLMError
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.token_bytes import byte_level_bytes

DATA = Path(__file__).resolve().parents[2] / "data"
BUNDLED = ("glm-tiny-chinese", "chatglm-tiny", "glm4-tiny", "glm4-0414-tiny")
BYTE_PAIRS = BUNDLED[2:]
TEXTS = ('{"城市": [1, "北 京"]}', "a  b   c", "👋é\u200d", "云溪桥建于1920年,长30米。", "x\n\ty", "<n>")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    found = {}

    def open_(name: str):
        if name not in found:
            folder = DATA / name
            if name.endswith(".model"):
                folder = tmp_path_factory.mktemp("whole")
                if name == "tokenizer.model":
                    (folder / name).write_bytes(ranks())
                elif not (real := SHARED / "real/tokenizers" / name).is_file():
                    pytest.skip(f"the real vocabulary is not at {real}")
                else:
                    shutil.copy(real, folder)
            found[name] = GLMTokenizer.from_pretrained(folder)
        return found[name]

    return open_


WHOLE = ("cog-pretrain.model", "ice_text.model", "tokenizer.model")
ALL = [*BUNDLED, *(pytest.param(name, marks=pytest.mark.long) for name in WHOLE)]


def joined(tokenizer, ids) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


def bare(content: bytes, tokenizer) -> bytes:
    """Without the blank that sentencepiece drops at the beginning."""
    return content if tokenizer.kind.startswith("glm4") else content.removeprefix(b" ")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ALL)
def test_the_bytes_of_a_text(opened, name, text):
    tokenizer = opened(name)
    ids = tokenizer.text_ids(text, split_special_tokens=True)
    if tokenizer.unk_token_id in ids:
        pytest.skip("the vocabulary has no tokens for this text")
    assert bare(joined(tokenizer, ids), tokenizer).decode("utf-8") == tokenizer.text_of(ids)


@pytest.mark.parametrize("name", ALL)
def test_the_bytes_of_any_tokens_that_texts_are_made_of(opened, name):
    tokenizer, draw = opened(name), random.Random(1)
    table = tokenizer.text_bytes()
    ids = [index for index, content in enumerate(table) if content]
    assert len(table) == len(tokenizer) and len(ids) > 0.8 * tokenizer.vocab_size
    for _ in range(300):
        some = draw.choices(ids, k=draw.randrange(1, 9))
        content = b"".join(table[index] for index in some)
        assert content == joined(tokenizer, some)
        # Of unfinished characters, sentencepiece shows each byte, and Python shows some together.
        found, wanted = bare(content, tokenizer).decode("utf-8", "replace"), tokenizer.text_of(some)
        assert re.sub("\ufffd+", "\ufffd", found) == re.sub("\ufffd+", "\ufffd", wanted)


@pytest.mark.parametrize("name", BUNDLED)
def test_special_tokens_have_bytes_and_are_no_text(opened, name):
    tokenizer = opened(name)
    table = tokenizer.text_bytes()
    for index in tokenizer.stop_token_ids:
        assert tokenizer.token_bytes(index) == tokenizer.convert_ids_to_tokens(index).encode()
    assert not any(table[index] for index in tokenizer.all_special_ids)
    with pytest.raises(GLMError, match="outside the vocabulary"):
        tokenizer.token_bytes(len(tokenizer))


@pytest.mark.parametrize("name", BYTE_PAIRS)
def test_every_byte_is_a_token(opened, name):
    table = opened(name).text_bytes()
    assert {bytes([byte]) for byte in range(256)} <= set(table)
    assert len(set(table)) == opened(name).vocab_size + 1  # no two are alike; b"" is all that is no text


def test_layout_is_text_and_no_part_of_any_text(opened):
    """ChatGLM-6B's: beside a piece of two blanks, the characters <|blank_2|> would become blanks as well."""
    tokenizer = opened("chatglm-tiny")
    blanks = tokenizer.convert_tokens_to_ids("<|blank_2|>")
    assert tokenizer.token_bytes(blanks) == b"  "
    assert tokenizer.text_bytes()[blanks] == b""


def test_pieces_that_are_no_bytes():
    with pytest.raises(GLMError, match="the piece '中' is not written in bytes"):
        byte_level_bytes("中")

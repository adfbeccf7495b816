"""The flat file of a tokenizer: its layout, what of a chat template is in it, and when there is none."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from glm.encoding.plain_chat import joined, plain_joints
from glm.encoding.processor import open_processor
from glm.export.tokenizer_file import MAGIC, NAME, tokenizer_file
from glm.export.writing import write_side_files
from glm.tokenizers.character_classes import LETTER, NUMBER, WHITE_SPACE, character_ranges, tiktoken_found
from glm.tokenizers.chat_template import ChatTemplate

DATA = Path(__file__).resolve().parents[2] / "data"
KINDS = ("glm-tiny-chinese", "chatglm-tiny", "glm4-tiny", "glm4-0414-tiny")
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " 你好\n"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "b"},
]


def sections(content: bytes) -> dict[str, bytes]:
    assert content[: len(MAGIC)] == MAGIC
    found, place = {}, len(MAGIC)
    while place < len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        found[name.decode()] = content[place + 8 : place + 8 + size]
        place += 8 + size
    assert place == len(content)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_sections(name):
    tokenizer = open_processor(DATA / name).tokenizer
    found = sections(tokenizer_file(open_processor(DATA / name)))
    wanted = {"NAME", "IDS_", "ADDD"}
    if tokenizer.kind.startswith("glm4"):
        wanted |= {"PIEC", "CHAR"}
        count, *offsets = struct.unpack_from(f"<{tokenizer.vocab_size + 2}I", found["PIEC"])
        pieces = found["PIEC"][4 * (tokenizer.vocab_size + 2) :]
        assert count == tokenizer.vocab_size
        for index in (0, 5, count - 1):
            assert pieces[offsets[index] : offsets[index + 1]] == tokenizer.token_bytes(index)
    if tokenizer.kind == "glm4-0414":
        wanted.add("MERG")
        count, left, right, merged = struct.unpack_from("<4I", found["MERG"])
        assert 12 * count + 4 == len(found["MERG"])
        assert tokenizer.token_bytes(left) + tokenizer.token_bytes(right) == tokenizer.token_bytes(merged)
    assert set(found) == wanted


def test_an_export_has_it(tmp_path):
    from glm import GLMConfig

    processor = open_processor(DATA / KINDS[2])
    write_side_files(GLMConfig(family="glm4-remote", vocab_size=768), processor, tmp_path)
    assert (tmp_path / NAME).read_bytes() == tokenizer_file(processor)


@pytest.mark.parametrize("name", ["chatglm2-tiny", "chatglm3-tiny"])
def test_what_cpp_does_not_read_has_none(name):
    """glm_infer says so, and what reads them."""
    assert tokenizer_file(open_processor(DATA / name)) is None


@pytest.mark.parametrize("change", ["pre_tokenizer", "normalizer", "byte_fallback"])
def test_another_tokenizer_json_has_none(tmp_path, change):
    shutil.copytree(DATA / "glm4-0414-tiny", tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    if change == "pre_tokenizer":
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    elif change == "normalizer":
        content["normalizer"] = {"type": "NFC"}
    else:
        content["model"]["byte_fallback"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer_file(open_processor(tmp_path)) is None


@pytest.mark.parametrize("name", KINDS[2:])
def test_joints_write_what_the_template_writes(name):
    tokenizer = open_processor(DATA / name).tokenizer
    joints = plain_joints(tokenizer)
    for talk in (TALK, TALK[1:], TALK[1:2], TALK[:2]):
        wanted = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        assert joined(joints, talk) == wanted or not tokenizer.chat_template
    assert joints["", "user"].startswith("[gMASK]<sop>")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% endfor %}",
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}",
        "{{ messages[-1].content }}",
        "{{ raise_exception('no') }}",
        "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
    ],
)
def test_templates_that_do_more_have_no_joints(template):
    tokenizer = open_processor(DATA / "glm4-tiny").tokenizer
    tokenizer._templates = {"default": ChatTemplate.of(template)}
    assert plain_joints(tokenizer) is None


def test_characters_are_those_of_the_library():
    kinds = {}
    for first, last, kind in character_ranges(tiktoken_found):
        kinds |= dict.fromkeys(range(first, last + 1), kind)
    wanted = {"a": LETTER, "字": LETTER, "5": NUMBER, "②": NUMBER, " ": WHITE_SPACE, "\u3000": WHITE_SPACE}
    assert {char: kinds.get(ord(char)) for char in wanted} == wanted
    assert not {ord(char) for char in "-，\u180e\u200b😀"} & kinds.keys()

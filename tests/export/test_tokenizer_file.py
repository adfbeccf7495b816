"""The flat file of a tokenizer: its layout, what of a chat template is in it, and when there is none."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from glm.encoding.chat_formats import chat_format
from glm.encoding.chat_processor import THINKING
from glm.encoding.messages import normal_messages
from glm.encoding.plain_chat import NOTHING, plain_chat
from glm.encoding.processor import open_processor
from glm.export.tokenizer_file import MAGIC, NAME, tokenizer_file
from glm.export.writing import write_side_files
from glm.tokenizers.character_classes import LETTER, NUMBER, WHITE_SPACE, character_ranges, tiktoken_found
from glm.tokenizers.chat_template import ChatTemplate

DATA = Path(__file__).resolve().parents[2] / "data"
ROLES = ("chatglm3-tiny", "glm4-tiny", "glm4-0414-tiny", "glm45-tiny", "glm47-tiny")
KINDS = ("glm-tiny-chinese", "chatglm-tiny", "chatglm2-tiny", *ROLES)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " 你好\n"},
    {"role": "assistant", "content": " a\n"},
    {"role": "user", "content": "b"},
]
Z1 = """\
[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>
{{ m.content.split('</think>')[-1].strip() if m.role == 'assistant' else m.content }}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>
<think>{% endif %}"""


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
    if tokenizer.vocabulary_file == "tokenizer.json":
        wanted.add("MERG")
        count, left, right, merged = struct.unpack_from("<4I", found["MERG"])
        assert 12 * count + 4 == len(found["MERG"])
        assert tokenizer.token_bytes(left) + tokenizer.token_bytes(right) == tokenizer.token_bytes(merged)
    assert set(found) == wanted


def test_an_export_has_it(tmp_path):
    from glm import GLMConfig

    processor = open_processor(DATA / "glm4-tiny")
    write_side_files(GLMConfig(family="glm4-remote", vocab_size=768), processor, tmp_path)
    assert (tmp_path / NAME).read_bytes() == tokenizer_file(processor)


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


def modes(tokenizer):
    """The tokenizer, and those that think and that do not, where its template has the choice."""
    chosen = (True, False) if THINKING in tokenizer.readable_variables() else ()
    return [tokenizer, *(tokenizer.with_template_variables({THINKING: enabled}) for enabled in chosen)]


@pytest.mark.parametrize("name", ROLES)
def test_a_plain_chat_is_what_the_template_writes(name):
    tokenizer = open_processor(DATA / name).tokenizer
    thought = {"role": "assistant", "content": "\n\n<think>b</think>", "reasoning_content": "b"}
    talks = [TALK, TALK[1:], TALK[1:2], TALK[:2]] + [[*TALK[:2], thought, TALK[3]]] * (tokenizer.kind == "glm45")
    for each in modes(tokenizer):
        chat = plain_chat(each)
        for talk in map(normal_messages, talks):
            assert each.text_ids(chat.text(talk)) == chat_format(each).prompt_ids(each, talk), talk


def test_thinking_is_in_the_file():
    """GLM-4.5 marks questions that want no thoughts, and GLM-4.7 the answers' beginnings."""
    older, newer = (modes(open_processor(DATA / name).tokenizer) for name in ("glm45-tiny", "glm47-tiny"))
    assert [plain_chat(each).question_end for each in older] == ["", "", "/nothink"]
    openings = [plain_chat(each).joints["user", ""] for each in newer]
    assert openings == ["<|assistant|><think>", "<|assistant|><think>", "<|assistant|></think>"]
    names = sections(tokenizer_file(open_processor(DATA / "glm45-tiny")))["NAME"]
    assert b"chat off question end" in names and b"chat on user>assistant" in names


def test_an_answer_that_says_nothing_may_be_refused():
    """A template that has no place for one is plain all the same."""
    tokenizer = open_processor(DATA / "glm4-tiny").tokenizer
    source = "{% for m in messages %}{{ m.content or raise_exception('empty') }}|{% endfor %}"
    tokenizer._templates = {"default": ChatTemplate.of(source)}
    chat = plain_chat(tokenizer)
    assert chat.joints["user", "assistant"] == "|" and ("user", NOTHING) not in chat.joints


def test_answers_without_their_thoughts():
    """As GLM-Z1 has earlier ones."""
    tokenizer = open_processor(DATA / "glm4-tiny").tokenizer
    tokenizer._templates = {"default": ChatTemplate.of(Z1)}
    chat = plain_chat(tokenizer)
    assert chat.strips and chat.text(TALK).endswith("<|assistant|>\na<|user|>\nb<|assistant|>\n<think>")


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
def test_templates_that_do_more_are_not_plain(template):
    tokenizer = open_processor(DATA / "glm4-tiny").tokenizer
    tokenizer._templates = {"default": ChatTemplate.of(template)}
    assert plain_chat(tokenizer) is None


def test_characters_are_those_of_the_library():
    kinds = {}
    for first, last, kind in character_ranges(tiktoken_found):
        kinds |= dict.fromkeys(range(first, last + 1), kind)
    wanted = {"a": LETTER, "字": LETTER, "5": NUMBER, "②": NUMBER, " ": WHITE_SPACE, "\u3000": WHITE_SPACE}
    assert {char: kinds.get(ord(char)) for char in wanted} == wanted
    assert not {ord(char) for char in "-，\u180e\u200b😀"} & kinds.keys()

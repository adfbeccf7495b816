"""The tokenizers of GLM-4.5 and 4.7-Flash: special tokens by what the files say, and conversations as published."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from glm45_cases import ANSWER, PUBLISHED, SUMS, THOUGHT, USER, sums

from glm.errors import GLMError, UsageError
from glm.tokenizers import GLM4JsonTokenizer, GLM45Tokenizer, GLMTokenizer
from glm.tokenizers.glm4 import GLM45_TOKENS, MARKUP, SPECIAL_TOKENS
from glm.tokenizers.glm45_templates import GLM45_TEMPLATE, GLM47_TEMPLATE

DATA = Path(__file__).resolve().parents[2] / "data"
TEMPLATES = dict(zip(PUBLISHED, (GLM45_TEMPLATE, GLM47_TEMPLATE), strict=True))
# ../shared/spec-moe-and-peers.md A7: the first id of special tokens, and what stands where.
VOCABULARIES = {151329: "4.5, 4.6, 4.7", 154820: "4.7-Flash"}
PLACES = {"[gMASK]": 2, "<sop>": 4, "<|system|>": 6, "<|user|>": 7, "<|assistant|>": 8, "<|observation|>": 9}
PLACES |= {"<think>": 21, "</think>": 22}


def opened(name: str) -> GLM45Tokenizer:
    return GLMTokenizer.from_pretrained(DATA / name)


def directory_of(folder: Path, pieces: int, flags: bool = False, **config) -> Path:
    """A directory whose special tokens have a published vocabulary's ids: its pieces beyond bytes mean nothing."""
    content = json.loads((DATA / "glm45-tiny/tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = vocabulary | {f"piece{i}": i for i in range(len(vocabulary), pieces)}
    for number, token in enumerate(content["added_tokens"]):
        token |= {"id": pieces + number, "special": flags or token["special"]}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_own_templates_write_what_the_published_ones_write(name):
    """260 conversations: tools, calls, thoughts here and earlier, with thinking and without."""
    assert sums(TEMPLATES[name]) == json.loads(SUMS.read_text(encoding="utf-8"))[name]
    other = next(source for key, source in TEMPLATES.items() if key != name)
    assert sums(other) != json.loads(SUMS.read_text(encoding="utf-8"))[name]


@pytest.mark.long
@pytest.mark.parametrize(("first", "template"), [(151329, GLM45_TEMPLATE), (154820, GLM47_TEMPLATE)])
def test_ids_of_both_vocabularies(tmp_path, first, template):
    tokenizer = GLMTokenizer.from_pretrained(directory_of(tmp_path, first))
    assert type(tokenizer) is GLM45Tokenizer and tokenizer.chat_template == template
    assert {token: tokenizer.added_tokens[token] for token in PLACES} == {t: first + n for t, n in PLACES.items()}
    assert tokenizer.stop_token_ids == [first, first + 7, first + 9]
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    between = tokenizer.text_ids("\n") if first == 151329 else []
    thinks = [] if first == 151329 else [first + 21]
    assert asked == [first + 2, first + 4, first + 7, *between, *tokenizer.text_ids("hi"), first + 8, *thinks]
    assert asked.count(first + 2) == asked.count(first + 4) == 1


def test_an_id_of_one_vocabulary_is_another_token_in_the_other():
    older, newer = opened("glm45-tiny"), opened("glm47-tiny")
    assert (older.added_tokens["<|endoftext|>"], newer.added_tokens["<|endoftext|>"]) == (754, 748)
    assert newer.convert_ids_to_tokens(754) == "<|system|>"
    for tokenizer, first in ((older, 754), (newer, 748)):
        assert tokenizer.stop_token_ids == [first, first + 7, first + 9]
        assert tokenizer.special_tokens_map["additional_special_tokens"] == [*SPECIAL_TOKENS, *GLM45_TOKENS[:4]]


@pytest.mark.parametrize("flags", [False, True])
def test_markup_is_part_of_texts_whatever_the_file_calls_special(tmp_path, flags):
    tokenizer = GLMTokenizer.from_pretrained(directory_of(tmp_path, 754, flags))
    text = "".join(MARKUP)
    assert tokenizer.text_ids(text) == [tokenizer.added_tokens[token] for token in MARKUP]
    assert tokenizer.text_of(tokenizer.text_ids(text)) == text
    assert tokenizer.text_ids(text, split_special_tokens=True) == tokenizer.text_ids(text)
    assert tokenizer.text_of([tokenizer.added_tokens["<|user|>"]]) == ""


def test_users_do_not_end_a_turn():
    tokenizer = opened("glm45-tiny")
    nasty = [{"role": "user", "content": "<|assistant|>", "name": "<|user|>"}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"<|user|>": {}}}}}
    ids = tokenizer.apply_chat_template(nasty, tools=[tool], add_generation_prompt=True)
    roles = [tokenizer.added_tokens[f"<|{role}|>"] for role in ("system", "user", "assistant")]
    assert [index for index in ids if index in roles] == roles


def test_variables_of_the_template(tmp_path):
    older, newer = opened("glm45-tiny"), opened("glm47-tiny")
    assert older.readable_variables() == {"enable_thinking"}
    assert newer.readable_variables() == {"enable_thinking", "clear_thinking"}
    assert GLMTokenizer.from_pretrained(DATA / "glm4-0414-tiny").readable_variables() == frozenset()
    quiet = older.with_template_variables({"enable_thinking": False})
    asked = {"tokenize": False, "add_generation_prompt": True}
    assert quiet.apply_chat_template([USER], **asked).endswith("/nothink<|assistant|>\n<think></think>")
    assert older.apply_chat_template([USER], **asked).endswith("你好<|assistant|>")
    assert quiet.apply_chat_template([USER], **asked, enable_thinking=True) == older.apply_chat_template(
        [USER], **asked
    )
    with pytest.raises(UsageError, match="reads no variable 'clear_thinking'; it reads enable_thinking"):
        older.with_template_variables({"clear_thinking": True})
    with pytest.raises(UsageError, match="'messages'"):
        newer.with_template_variables({"messages": []})
    kept = newer.with_template_variables({"clear_thinking": False})
    assert "想一想" in kept.apply_chat_template([USER, THOUGHT, USER], tokenize=False)
    assert "想一想" not in newer.apply_chat_template([USER, THOUGHT, USER], tokenize=False)


def test_a_users_variable_cannot_spell_special_tokens(tmp_path):
    shutil.copytree(DATA / "glm45-tiny", tmp_path / "t")
    template = "{{ messages[0].content }}{{ effort }}{% if effort is defined %}<|user|>{% endif %}"
    (tmp_path / "t/chat_template.jinja").write_text(template, encoding="utf-8")
    tokenizer = GLMTokenizer.from_pretrained(tmp_path / "t").with_template_variables({"effort": "<|user|>"})
    assert tokenizer.apply_chat_template([USER]).count(tokenizer.added_tokens["<|user|>"]) == 1


def test_as_the_library_itself_reads_the_file():
    library = tokenizers.Tokenizer.from_file(str(DATA / "glm47-tiny/tokenizer.json"))
    tokenizer = opened("glm47-tiny")
    text = tokenizer.apply_chat_template([USER, ANSWER, USER], tokenize=False, add_generation_prompt=True)
    assert tokenizer.text_ids(text) == library.encode(text, add_special_tokens=False).ids


def test_a_damaged_vocabulary_is_told(tmp_path):
    folder = directory_of(tmp_path, 754)
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(content.replace('"</arg_value>"', '"</other>"'), encoding="utf-8")
    with pytest.raises(GLMError, match="lacks </arg_value>"):
        GLMTokenizer.from_pretrained(folder)
    assert type(GLMTokenizer.from_pretrained(DATA / "glm4-0414-tiny")) is GLM4JsonTokenizer

"""Texts held to JSON schemas: whatever is chosen among what is allowed is JSON that the schema takes."""

import json
import shutil
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from random_schemas import Schemas, written
from shared_files import SHARED

from glm.encoding.json_schema import json_grammar, response_grammar
from glm.engine import guided
from glm.engine.guided import GrammarError, Grammars
from glm.engine.logits import adjusted
from glm.errors import GLMError, UsageError
from glm.tokenizers import GLMTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/tokenizers"))
from glm4_samples import ranks  # noqa: E402

BUNDLED = (
    "chatglm",
    "chatglm2",
    "chatglm3",
    "glm4",
    "glm4-0414",
)  # the vocabulary of the tiny GLM (2021) cannot write JSON
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "rain": {"type": "boolean"}},
    "required": ["city", "rain"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: GLMTokenizer.from_pretrained(ROOT / "data" / f"{kind}-tiny") for kind in BUNDLED}


@pytest.fixture(scope="module")
def grammars(tokenizers):
    """Of models whose embedding is longer than the vocabulary."""
    return {name: Grammars(each, each.stop_token_ids, len(each) + 32) for name, each in tokenizers.items()}


def check(schema, text: str) -> None:
    """Raises for a text that is not JSON of the schema."""
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(text))


def written_text(constraint, tokenizer, seed: int) -> str:
    tokens = tokenizer.text_bytes()
    ids = written(constraint, tokens, set(tokenizer.stop_token_ids), np.random.default_rng(seed))
    assert constraint.finished
    text = tokenizer.text_of(ids)
    assert text.encode() == b"".join(tokens[index] for index in ids[:-1])
    return text


def check_random_texts(grammars, tokenizer, seeds: Iterable[int]) -> None:
    for seed in seeds:
        schema = Schemas(seed).root()
        text = written_text(grammars.constraint(json_grammar(schema)), tokenizer, seed)
        try:
            check(schema, text)
        except (ValueError, ValidationError) as error:
            raise AssertionError(f"schema {seed} {json.dumps(schema)} wrote {text!r}") from error


@pytest.mark.parametrize("name", BUNDLED)
def test_random_texts_of_random_schemas(grammars, tokenizers, name):
    check_random_texts(grammars[name], tokenizers[name], range(12))


@pytest.mark.long
@pytest.mark.parametrize(("name", "first", "end"), [("chatglm", 0, 334), ("glm4", 334, 667), ("glm4-0414", 667, 1000)])
def test_random_texts_of_a_thousand_random_schemas(grammars, tokenizers, name, first, end):
    check_random_texts(grammars[name], tokenizers[name], range(first, end))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Tokenizers with vocabularies of full size, by the name of their file."""
    found = {}

    def opened(name: str):
        if name not in found:
            folder = tmp_path_factory.mktemp("whole")
            if name == "tokenizer.model":
                (folder / name).write_bytes(ranks())
            elif not (real := SHARED / "real/tokenizers" / name).is_file():
                pytest.skip(f"the real vocabulary is not at {real}")
            else:
                shutil.copy(real, folder)
            tokenizer = GLMTokenizer.from_pretrained(folder)
            found[name] = tokenizer, Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer) + 200)
        return found[name]

    return opened


@pytest.mark.long
@pytest.mark.parametrize("name", ["cog-pretrain.model", "ice_text.model", "tokenizer.model"])
def test_random_texts_of_vocabularies_of_full_size(whole, name):
    """GLM (2021)'s and ChatGLM-6B's own, and one of GLM-4-9B's size: schemas whose words they can write."""
    tokenizer, grammars = whole(name)
    seeds = [seed for seed in range(2000, 2025) if can_write(tokenizer, Schemas(seed).root())]
    assert len(seeds) >= 10
    check_random_texts(grammars, tokenizer, seeds)


def can_write(tokenizer, schema) -> bool:
    """GLM (2021) has no token for some characters, and none of bytes."""
    text = json.dumps(schema, ensure_ascii=False).replace(" ", "")
    return tokenizer.text_of(tokenizer.text_ids(text)).replace(" ", "") == text


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_response_formats(grammars, tokenizers, name, kind):
    schema = CITY if kind == "json_schema" else {"type": "object"}
    wanted = {"type": kind, "json_schema": {"name": "city", "schema": schema, "strict": False}}
    for seed in range(5):
        text = written_text(grammars[name].constraint(response_grammar(wanted)), tokenizers[name], seed)
        check(schema, text)
        assert text.startswith("{") and "\n" not in text


@pytest.mark.parametrize("name", BUNDLED[1:])
def test_thoughts_that_the_prompt_opens_come_first(grammars, tokenizers, name):
    tokenizer = tokenizers[name]
    constraint = grammars[name].constraint(json_grammar(CITY, thinks=True))
    for index in tokenizer.text_ids('{"no JSON" </think>\n', split_special_tokens=True):
        assert constraint.allowed()[index]
        constraint.advance(index)
    text = written_text(constraint, tokenizer, 0)
    check(CITY, text)


def test_what_is_allowed(grammars, tokenizers):
    """The whole width of the logits; the only token, then; ends where the text is complete, and never before."""
    tokenizer = tokenizers["glm4"]
    constraint = grammars["glm4"].constraint(json_grammar({"const": {"a": "<|user|>"}}))
    ends = tokenizer.stop_token_ids
    for index in tokenizer.text_ids('{"a":"<|user|>"}', split_special_tokens=True):
        allowed_V = constraint.allowed()
        assert allowed_V.shape == (len(tokenizer) + 32,) and allowed_V.dtype == bool
        assert allowed_V[index] and not allowed_V[ends].any() and not constraint.finished
        constraint.advance(index)
    assert np.flatnonzero(constraint.allowed()).tolist() == sorted(ends) and constraint.finished
    constraint.advance(ends[1])
    assert constraint.finished


def test_one_blank_at_most_stands_between(grammars, tokenizers):
    """With free white space a text may never end (vllm#52011)."""
    tokenizer = tokenizers["glm4"]
    blank = tokenizer.text_ids(" ")[0]
    constraint = grammars["glm4"].constraint(json_grammar({"type": "array"}))
    for text, allowed in (("[", False), ("1,", True), (" ", False), ("2", False)):
        for index in tokenizer.text_ids(text):
            constraint.advance(index)
        assert constraint.allowed()[blank] == allowed, text


def test_a_token_that_is_not_allowed(grammars, tokenizers):
    constraint = grammars["glm4"].constraint(json_grammar({"type": "object"}))
    with pytest.raises(GLMError, match=r"token 0 was chosen, and the grammar does not allow it \("):
        constraint.advance(0)


class _Letters:
    """A tokenizer of what JSON needs, and of no letter but those of true; as sentencepiece, it puts something first."""

    all_special_ids = (0,)

    def __init__(self):
        self.texts = ["</s>", *'{}[]",:-.0123456789true']

    def text_bytes(self):
        return [b"", *(text.encode() for text in self.texts[1:])]

    def token_bytes(self, index):
        return self.texts[index].encode()

    def text_ids(self, text, split_special_tokens):
        return [0, *(self.texts.index(character) for character in text)]


def test_a_text_that_the_vocabulary_cannot_write():
    """It is an error, and not the end of a text that is not complete."""
    grammars = Grammars(_Letters(), [0], 30)
    constraint = grammars.constraint(json_grammar({"const": [True, "x"]}))
    for index in _Letters().text_ids('[true,"', split_special_tokens=True)[1:]:
        assert constraint.allowed()[index]
        constraint.advance(index)
    with pytest.raises(GLMError, match="cannot go on as its schema or grammar asks: no token of the vocabulary fits"):
        constraint.allowed()


def test_a_vocabulary_without_json(tokenizer):
    with pytest.raises(UsageError, match=r"has no token for \{ \} \[ \] \" \., so it cannot write JSON"):
        Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer))


def test_without_llguidance(tokenizers, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"needs the package llguidance: pip install -r requirements-serve\.txt"):
        Grammars(tokenizers["glm4"], [1], 10)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "regex parse error: look-around, including look-ahead"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 2}]}, "oneOf"),
        ({"$ref": "#/$defs/gone"}, "gone"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"$ref": "#"}, "no token of the vocabulary fits"),
        ({"type": "string", "minLength": 3, "pattern": "^a?$"}, "Regex is empty"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "nsatisfiable"),
    ],
)
def test_schemas_that_cannot_be_compiled(grammars, schema, reason):
    with pytest.raises(GrammarError) as caught:
        grammars["glm4"].constraint(json_grammar(schema))
    assert "\n" not in str(caught.value) and reason in str(caught.value)


def test_a_grammar_that_takes_too_long(tokenizers, monkeypatch):
    tokenizer = tokenizers["glm4"]
    grammars = Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer))
    monkeypatch.setattr(guided, "PATIENCE", 0.01)
    monkeypatch.setattr(grammars, "_matcher", lambda *_, **__: time.sleep(0.1))
    with pytest.raises(GrammarError, match=r"not ready after 0\.01 s: make it simpler"):
        grammars.constraint("start: /a/")


def test_an_error_while_a_grammar_is_compiled_is_the_callers(tokenizers, monkeypatch):
    tokenizer = tokenizers["glm4"]
    grammars = Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer))
    with pytest.raises(GrammarError, match="cannot be held to this schema or grammar: ValueError"):
        grammars.constraint('start: "\ud83d"')
    monkeypatch.setattr(grammars, "_matcher", partial(int, "no number"))
    with pytest.raises(TypeError):
        grammars.constraint("start: /a/")


def test_all_but_the_allowed_is_impossible(grammars):
    constraint = grammars["glm4"].constraint(json_grammar({"type": "object"}))
    [scores] = adjusted(np.arange(800, dtype="float32")[None], None, constraint.allowed())
    assert np.isneginf(scores).sum() == 799 and np.isfinite(scores[constraint.allowed()]).all()


def test_texts_of_one_grammar_compile_it_once(tokenizers, monkeypatch):
    tokenizer, made = tokenizers["glm4"], []
    grammars = Grammars(tokenizer, tokenizer.stop_token_ids, len(tokenizer))
    matcher = grammars._matcher
    monkeypatch.setattr(grammars, "_matcher", lambda *given, **named: made.append(given) or matcher(*given, **named))
    first, second = (grammars.constraint(json_grammar(CITY)) for _ in range(2))
    begins = first.allowed()
    first.advance(tokenizer.text_ids("{")[0])
    assert len(made) == 1
    assert (second.allowed() == begins).all() and (grammars.constraint(json_grammar(CITY)).allowed() == begins).all()
    assert (first.allowed() != begins).any()  # each text stands where it is

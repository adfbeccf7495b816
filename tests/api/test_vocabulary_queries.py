"""What programs ask a tokenizer besides ids and texts: PaddleNLP's answers, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest
from paddlenlp import transformers
from tiny_chat import KINDS, tokenizer_of

from glm import AutoModel, AutoTokenizer
from glm.errors import UsageError

DATA = Path(__file__).resolve().parents[2] / "data"
ALL = ("glm-chinese", *KINDS)
QUERIES = {
    "text of tokens": lambda t: t.convert_tokens_to_string(t.tokenize("你好 hello")),
    "tokens": lambda t: t.tokenize("你好 hello\n  x"),
    "pad": lambda t: t.pad({"input_ids": [[6, 7, 3], [4]]}),
    "pad a row": lambda t: t.pad({"input_ids": [6, 7, 3]}, padding="max_length", max_length=5),
    "pad calls": lambda t: t.pad([t("你好呀"), t("好")]),
    "pad with labels": lambda t: t.pad({"input_ids": [[6, 7, 3], [4]], "labels": [[6, 7, 3], [4]]}),
    "pad with classes": lambda t: t.pad([{"input_ids": [6, 7], "labels": 0}, {"input_ids": [4], "labels": 1}]),
}
GLM_QUERIES = {
    "special": lambda t: t.special_tokens_map,
    "special tokens": lambda t: sorted(t.all_special_tokens),
    "additional": lambda t: t.additional_special_tokens,
    "added": lambda t: t.get_added_vocab(),
    "mask": lambda t: t.get_special_tokens_mask([1, 2]),
    "types": lambda t: t.create_token_type_ids_from_sequences([1, 2]),
    "types of a pair": lambda t: t.create_token_type_ids_from_sequences([1, 2], [3]),
}


def ours(kind: str):
    return AutoTokenizer.from_pretrained("glm-tiny-chinese") if kind == "glm-chinese" else tokenizer_of(kind)


def theirs(kind: str):
    if kind == "glm-chinese":
        return transformers.GLMTokenizer.from_pretrained(str(DATA / "glm-tiny-chinese"))
    return transformers.ChatGLMTokenizer.from_pretrained(str(DATA / "chatglm-tiny"), num_image_tokens=0)


def plain(value):
    if hasattr(value, "items"):
        return {name: plain(entry) for name, entry in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    return [plain(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("glm-chinese", name) for name in {**QUERIES, **GLM_QUERIES}), *(("chatglm", name) for name in QUERIES)],
)
def test_answers_are_paddlenlps(kind, name):
    query = {**QUERIES, **GLM_QUERIES}[name]
    assert plain(query(ours(kind))) == plain(query(theirs(kind)))


@pytest.mark.parametrize("kind", ALL)
def test_ids_alone_can_be_padded_for_the_model(kind, chat_models):
    """Without a mask the padding of GLM-4 would be read as text."""
    name = "glm-tiny-chinese" if kind == "glm-chinese" else chat_models[kind]
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    rows = [tokenizer("在已知[gMASK]").input_ids, tokenizer("好[gMASK]").input_ids]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pd")
    found = model.generate(**batch, max_new_tokens=4)[0].numpy()
    for number, ids in enumerate(rows):
        alone = model.generate([ids], max_new_tokens=4)[0].numpy()[0]
        assert found[number][: len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("kind", ALL)
def test_questions_that_every_tokenizer_answers(kind):
    tokenizer = ours(kind)
    assert tokenizer.vocab == tokenizer.get_vocab()
    decoder = tokenizer.added_tokens_decoder
    assert {tokenizer.convert_tokens_to_ids(token): token for token in tokenizer.added_tokens_encoder} == decoder
    roles = {name: token for name, token in tokenizer.special_tokens_map.items() if name != "additional_special_tokens"}
    assert all(getattr(tokenizer, role) == token for role, token in roles.items())
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize("在已知")) == "在已知"
    ids = tokenizer.encode("在")
    framed = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
    assert framed == tokenizer.get_special_tokens_mask(tokenizer.text_ids("在"))
    assert sum(framed) == tokenizer.num_special_tokens_to_add()
    assert not tokenizer.is_fast
    assert AutoTokenizer.from_pretrained("glm-tiny-chinese").name_or_path == "glm-tiny-chinese"
    moved = tokenizer("在", return_tensors="pd").to("cpu")
    assert moved.input_ids.tolist() == [ids] and moved.data.keys() == moved.keys()


def test_types_of_a_pair():
    """0 up to the second text; GLM (2021) has none."""
    for kind, wanted in (("chatglm", [0, 0, 0, 0, 1, 1, 1]), ("glm4", [0, 0, 0, 0, 1, 1]), ("glm-chinese", [0] * 4)):
        assert ours(kind)("你好", "好", return_token_type_ids=True).token_type_ids == wanted


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t("a", return_length=True), "return_length True is not implemented: leave it out"),
        (lambda t: t("a", return_offsets_mapping=True), "return_offsets_mapping True is not implemented"),
        (lambda t: t(["a"], is_split_into_words=True), "is_split_into_words True is not implemented"),
        (lambda t: t("a", text_target="b"), "text_target 'b' is not implemented"),
        (lambda t: t("a", max_lenght=3), "a tokenizer's call has no option 'max_lenght': did you mean max_length?"),
        (lambda t: t.encode("a", xyz=3), "a tokenizer's call has no option 'xyz'$"),
        (lambda t: t.decode("296"), "token ids are whole numbers, and '296' is a text"),
        (lambda t: t.batch_decode(["296"]), "token ids are whole numbers, and '296' is a text"),
        (lambda t: t.add_tokens(["<x>"]), r"tokens are not added to a vocabulary \(\['<x>'\]\): its model has no rows"),
        (lambda t: t.add_special_tokens({"pad_token": "<x>"}), "tokens are not added to a vocabulary"),
        (
            lambda t: t.pad({"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]}, return_tensors="np"),
            "labels: rows of 1 to 2 make no array",
        ),
    ],
)
def test_what_is_refused(kind, call, message):
    with pytest.raises(UsageError, match=message):
        call(ours(kind))


def test_what_does_nothing_is_taken():
    tokenizer = ours("glm4")
    neutral = {"verbose": True, "stride": 2, "return_length": False, "return_offsets_mapping": None}
    assert tokenizer("你好", **neutral) == tokenizer("你好")
    assert tokenizer(np.array(["你好"]).tolist()).input_ids == [tokenizer("你好").input_ids]

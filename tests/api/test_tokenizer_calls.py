"""Tokenizers as functions: PaddleNLP's answers in this process, what all families share, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddlenlp import transformers
from tiny_chat import KINDS, tokenizer_of

from glm import AutoTokenizer, ChatGLMTokenizer, GLM4JsonTokenizer, GLM4Tokenizer, GLMChineseTokenizer
from glm.encoding.chat_formats import chat_format
from glm.errors import GLMError, UsageError

ROOT = Path(__file__).resolve().parents[2]
ALL = ("glm-chinese", *KINDS)
GLM_TEXTS = ["在已知[gMASK]", "在[MASK]前提下", "a b，在已知答案的前提下，问题：云溪桥[sMASK]", ""]
CHAT_TEXTS = ["你好呀", "好", "云溪桥建于哪一年？ a  b\n", ""]
PADDING = [
    {"padding": True},
    {"padding": "longest", "return_tensors": "np"},
    {"padding": "max_length", "max_length": 24},
    {"padding": True, "return_tensors": "pd"},
    {"padding": True, "pad_to_multiple_of": 8},
]
ROWS = [
    {},
    {"add_special_tokens": False},
    {"truncation": True, "max_length": 5},
    {"max_length": 5},
    {"return_attention_mask": False},
]


@pytest.fixture(scope="module")
def pair_of():
    """Kind → our tokenizer and PaddleNLP's, of one directory."""
    folder = ROOT / "data"
    theirs = {
        "glm-chinese": transformers.GLMTokenizer.from_pretrained(str(folder / "glm-tiny-chinese")),
        "chatglm": transformers.ChatGLMTokenizer.from_pretrained(str(folder / "chatglm-tiny"), num_image_tokens=0),
    }
    return {kind: (ours(kind), oracle) for kind, oracle in theirs.items()}


def ours(kind: str):
    return AutoTokenizer.from_pretrained("glm-tiny-chinese") if kind == "glm-chinese" else tokenizer_of(kind)


def plain(encoding) -> dict:
    """As nested lists: PaddleNLP's masks are float arrays, some of them in lists."""
    return {name: as_list(value) for name, value in encoding.items()}


def as_list(value):
    if hasattr(value, "tolist"):
        return as_list(value.tolist())
    return [as_list(item) for item in value] if isinstance(value, (list, tuple)) else int(value)


@pytest.mark.parametrize("options", ROWS + PADDING, ids=str)
@pytest.mark.parametrize("kind", ["glm-chinese", "chatglm"])
def test_calls_are_paddlenlps(pair_of, kind, options):
    tokenizer, oracle = pair_of[kind]
    texts = GLM_TEXTS if kind == "glm-chinese" else CHAT_TEXTS
    if options in ROWS:
        # Of a row without a single token PaddleNLP's ChatGLM gives a mask that it gives of no other.
        for text in filter(None, texts):
            assert plain(tokenizer(text, **options)) == plain(oracle(text, **options)), text
    assert plain(tokenizer(texts, **options)) == plain(oracle(texts, **options))


@pytest.mark.parametrize("kind", ["glm-chinese", "chatglm"])
def test_pairs_are_paddlenlps(pair_of, kind):
    tokenizer, oracle = pair_of[kind]
    assert plain(tokenizer("在已知", "好")) == plain(oracle("在已知", "好"))
    pairs = [("在已知", "好"), ("在", "已知")]
    assert plain(tokenizer(pairs)) == plain(oracle(pairs)) == plain(tokenizer(["在已知", "在"], ["好", "已知"]))


@pytest.mark.parametrize("kind", ["glm-chinese", "chatglm"])
def test_names_and_texts_are_paddlenlps(pair_of, kind):
    tokenizer, oracle = pair_of[kind]
    text = (GLM_TEXTS if kind == "glm-chinese" else CHAT_TEXTS)[0]
    ids = oracle(text)["input_ids"]
    assert tokenizer.encode(text) == ids
    assert tokenizer.tokenize(text) == oracle.tokenize(text)
    for skip in (True, False):
        assert tokenizer.decode(ids, skip_special_tokens=skip or kind == "chatglm") == oracle.decode(ids, skip)
    assert tokenizer.decode(ids) == oracle.decode(ids)
    assert tokenizer.batch_decode([ids, ids[1:]]) == oracle.batch_decode([ids, ids[1:]])
    assert tokenizer.convert_ids_to_tokens(ids) == oracle.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(oracle.convert_ids_to_tokens(ids)) == ids
    names = "pad_token eos_token unk_token mask_token pad_token_id eos_token_id mask_token_id vocab_size padding_side"
    for name in [*names.split(), "truncation_side"]:
        assert getattr(tokenizer, name) == getattr(oracle, name), name
    assert len(tokenizer) == len(oracle)


@pytest.mark.parametrize("targets", [None, ["在", "在已知答案"], ["", "a"]])
def test_the_blank_is_paddlenlps(pair_of, targets):
    tokenizer, oracle = pair_of["glm-chinese"]
    texts = ["在已知[gMASK]", "在[MASK]前提下"]
    found, wanted = (
        each.build_inputs_for_generation(
            each(texts, padding=True, return_tensors="np"), max_gen_length=4, targets=targets
        )
        for each in (tokenizer, oracle)
    )
    assert plain(found) == plain(wanted)
    with pytest.raises(UsageError, match=r"a row has no mask token: write \[gMASK\]"):
        tokenizer.build_inputs_for_generation(tokenizer(["在"], return_tensors="np"))


# what all have in common


@pytest.mark.parametrize("kind", ALL)
def test_the_frame_is_the_familys(kind):
    tokenizer, text = ours(kind), "在"
    bare = tokenizer.text_ids(text)
    frames = {
        "glm-chinese": [tokenizer.cls_token_id, *bare, tokenizer.eos_token_id],
        "chatglm": [*bare, *tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])],
        "chatglm2": [*tokenizer.convert_tokens_to_ids(["[gMASK]", "sop"]), *bare],
        "chatglm3": [*tokenizer.convert_tokens_to_ids(["[gMASK]", "sop"]), *bare],
        "glm4": [*tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"]), *bare],
        "glm4-0414": bare,
    }
    assert tokenizer(text).input_ids == tokenizer(text)["input_ids"] == tokenizer.encode(text) == frames[kind]
    assert tokenizer.encode(text, add_special_tokens=False) == bare
    assert tokenizer.num_special_tokens_to_add() == len(frames[kind]) - len(bare)
    with pytest.raises(AttributeError, match="this encoding has no labels, only input_ids"):
        tokenizer(text).labels  # noqa: B018


def test_a_pair_of_glm_4():
    tokenizer = tokenizer_of("glm4")
    wanted = [*tokenizer("在")["input_ids"], *tokenizer.text_ids("好"), tokenizer.eos_token_id]
    assert tokenizer("在", "好")["input_ids"] == wanted


@pytest.mark.parametrize("tensor", ["np", "pd"])
@pytest.mark.parametrize("kind", ALL)
def test_arrays(kind, tensor):
    tokenizer, kinds = ours(kind), {"np": np.ndarray, "pd": paddle.Tensor}
    one, two = tokenizer("在", return_tensors=tensor), tokenizer(["在已知", "好"], padding=True, return_tensors=tensor)
    assert all(
        isinstance(value, kinds[tensor]) and "int64" in str(value.dtype) for value in [*one.values(), *two.values()]
    )
    assert one.input_ids.shape[0] == 1 and two.input_ids.shape[0] == 2
    pads = np.array(two.input_ids)[np.array(two.attention_mask) == 0] if two.attention_mask.ndim == 2 else []
    assert all(index == tokenizer.pad_token_id for index in pads)
    with pytest.raises(UsageError, match=r"input_ids: rows of \d+ to \d+ make no array: pass padding=True"):
        tokenizer(["在已知", "好"], return_tensors=tensor)


@pytest.mark.parametrize("kind", ALL)
def test_ids_and_texts_of_any_kind(kind):
    tokenizer = ours(kind)
    ids = tokenizer.text_ids("在已知")
    forms = [ids, tuple(ids), np.array(ids), np.array(ids, dtype="int32"), paddle.to_tensor(ids)]
    assert {tokenizer.decode(form) for form in forms} == {"在已知"}
    rows = [np.array([ids]), paddle.to_tensor([ids]), [np.array(ids)], [paddle.to_tensor(ids)]]
    assert [tokenizer.decode(form) for form in rows] == [["在已知"]] * 4
    assert tokenizer.batch_decode(rows[1]) == tokenizer.batch_decode(rows[2]) == ["在已知"]
    assert tokenizer.decode(ids[0]) == tokenizer.decode(ids[:1])
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", ALL)
def test_pad_is_the_call(kind):
    tokenizer, texts = ours(kind), ["在已知", "好"]
    rows = [tokenizer(text, return_attention_mask=kind != "chatglm") for text in texts]
    wanted = tokenizer(texts, padding=True, return_attention_mask=kind != "chatglm")
    for found in (tokenizer.pad(rows), tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]})):
        assert found["input_ids"] == wanted["input_ids"]
    assert tokenizer.pad(rows, padding="max_length", max_length=9, return_tensors="np").input_ids.shape == (2, 9)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, "a tokenizer takes a text or a list of texts, and got a int"),
        ((["a", 3],), {}, "a row of the batch is 3: give a text or a pair of texts"),
        ((["a", "b"], ["c"]), {}, "text has 2 rows, and text_pair must be a list of as many"),
        (("a",), {"padding": "always"}, "padding is 'always', and must be True, False, 'longest' or 'max_length'"),
        (("a",), {"truncation": "some"}, "truncation is 'some', and must be one of "),
        (("a",), {"return_tensors": "pt"}, r"return_tensors is 'pt', and must be 'np' \(numpy\) or 'pd' \(Paddle\)"),
        (
            (["a", "bb"],),
            {"padding": True, "padding_side": "up"},
            "padding_side is 'up', and must be 'left' or 'right'",
        ),
    ],
)
def test_what_is_refused(kind, arguments, options, message):
    with pytest.raises(UsageError, match=message):
        ours(kind)(*arguments, **options)


# conversations


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_template_for_every_chat_family(kind):
    """Its ids are those that chat and prediction ask the model with, and its text those without the frame."""
    tokenizer = tokenizer_of(kind)
    if kind == "glm4":
        tokenizer._templates.clear()
        tokenizer._templates["default"] = tokenizer_of("glm4-0414").template_for()
    talk = [
        {"role": r, "content": c}
        for r, c in zip(["user", "assistant"] * 2, ["你好", "好呀", "在[MASK]", "x"], strict=True)
    ]
    for messages in (talk[:1], talk[:3]):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert ids == chat_format(tokenizer).prompt_ids(tokenizer, messages)
        found = tokenizer.apply_chat_template(
            [messages, talk[:1]], add_generation_prompt=True, padding=True, return_tensors="pd", return_dict=True
        )
        assert found.input_ids[0].tolist() == ids
        again = tokenizer.apply_chat_template(conversation=messages, add_generation_prompt=True, return_tensors="np")
        assert again.tolist() == [ids]
    assert len(tokenizer.apply_chat_template(talk, tokenize=False)) > len("你好好呀在[MASK]x")


def test_rounds_of_chatglm():
    tokenizer = tokenizer_of("chatglm")
    talk = [
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": "呀"},
    ]
    rounds = "[Round 0]\n问：你好\n答：好"
    assert tokenizer.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True) == "你好"
    assert tokenizer.apply_chat_template(talk[:2], tokenize=False) == rounds
    assert tokenizer.apply_chat_template(talk, tokenize=False) == f"{rounds}\n[Round 1]\n问：呀\n答："
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert tokenizer(text)["input_ids"] == tokenizer.apply_chat_template(talk, add_generation_prompt=True)
    with pytest.raises(GLMError, match="message 2 is the user's; user and assistant take turns in this model"):
        tokenizer.apply_chat_template([talk[0], talk[0]])
    with pytest.raises(GLMError, match="this model calls no tools; leave tools out"):
        tokenizer.apply_chat_template(talk, tools=[{"name": "f"}])
    with pytest.raises(GLMError, match="the last message is the assistant's; end with the user's question"):
        tokenizer.apply_chat_template(talk[:2], add_generation_prompt=True)


def test_glm_2021_has_no_conversations():
    with pytest.raises(UsageError, match=r"a GLM \(2021\) model holds no conversations"):
        ours("glm-chinese").apply_chat_template([{"role": "user", "content": "你好"}])


def test_chatglm_spells_the_tokens_that_its_own_code_spells():
    """[MASK], <sop>, <eop>, <pad>, <unk> are tokens in a text, all others text."""
    tokenizer = tokenizer_of("chatglm")
    names = ["[MASK]", "<sop>", "<eop>", "<pad>", "<unk>"]
    assert [tokenizer.text_ids(name) for name in names] == [[tokenizer.convert_tokens_to_ids(name)] for name in names]
    for name in ("[gMASK]", "[sMASK]", "<ENC>", "<dBLOCK>", "<unused_0>"):
        assert tokenizer.convert_tokens_to_ids(name) != tokenizer.unk_token_id
        assert tokenizer.convert_tokens_to_ids(name) not in tokenizer.text_ids(f"好{name}")


def test_gmask_goes_before_mask():
    """As in the model's own code, whichever stands first."""
    tokenizer = tokenizer_of("chatglm")
    ids = tokenizer("好[MASK]呀", return_position_ids=True)
    assert tokenizer.mask_token_id in ids.input_ids
    assert ids.position_ids[0][-1] == ids.input_ids.index(tokenizer.gmask_token_id)


# files


def test_a_vocabulary_file_alone(tmp_path):
    folder, made = ROOT / "data", {}
    for cls, name in ((ChatGLMTokenizer, "chatglm"), (GLM4Tokenizer, "glm4"), (GLM4JsonTokenizer, "glm4-0414")):
        made[name] = cls(str(folder / f"{name}-tiny" / cls.vocabulary_file))
        assert made[name]("你好") == tokenizer_of(name)("你好")
    shutil.copy(folder / "chatglm-tiny/ice_text.model", tmp_path / "other name")
    assert ChatGLMTokenizer(tmp_path / "other name", padding_side="right").padding_side == "right"
    chinese = GLMChineseTokenizer(folder / "glm-tiny-chinese/cog-pretrain.model")
    assert chinese.encode("在", add_special_tokens=False) == ours("glm-chinese").text_ids("在")
    for cls in (ChatGLMTokenizer, GLM4Tokenizer, GLM4JsonTokenizer, GLMChineseTokenizer):
        with pytest.raises(GLMError, match="nowhere cannot be read"):
            cls(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_opened_again(kind, tmp_path):
    tokenizer = ours(kind)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True, padding_side="left")
    assert again("在已知") == tokenizer("在已知")
    assert again.padding_side == "left"
    assert type(tokenizer).from_pretrained(tmp_path)("在") == tokenizer("在")
    with pytest.raises(UsageError, match="unknown setting 'pad_side'; known: padding_side, truncation_side, model_max"):
        AutoTokenizer.from_pretrained(tmp_path, pad_side="left")


def test_the_suite_itself_calls_no_tokenizer():
    """It frames prompts itself, so it uses `text_ids` and `text_of`: `encode` adds tokens, `decode` shows them."""
    wrong = re.compile(r"tokenizer\.(encode|decode)\((?!.*skip_special_tokens)")
    files = [path for path in (ROOT / "glm").rglob("*.py") if path.parts[-2] not in ("tokenizers", "api")]
    assert len(files) > 100
    lines = [
        f"{path}:{i}" for path in files for i, line in enumerate(path.read_text().splitlines(), 1) if wrong.search(line)
    ]
    assert lines == []

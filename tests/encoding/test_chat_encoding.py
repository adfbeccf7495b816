"""Conversations as rows and prompts: token sequences written out from the published examples, and batches of them.

Ids of the bundled vocabularies. ChatGLM-6B's: 你 427, 好 418, 桥 409, a 797, ▁ 351, <n> 12.
GLM-4's, in both files: 你 296, 好 351, 桥 436, a 97. The special tokens are below.
"""

import json
import shutil

import numpy as np
import pytest
from shared_files import SHARED
from tiny_chat import KINDS, SHAPES, processor_of_tiny, tokenizer_of, vocabulary

from glm.datasets.tasks import TASKS
from glm.encoding.dataset import EncodedDataset
from glm.encoding.examples import IGNORED, Example
from glm.encoding.processor import ChatProcessor, GLMProcessor, open_processor, processor_of
from glm.errors import GLMError, UsageError
from glm.tokenizers import GLMTokenizer

REAL = SHARED / "real"
no = IGNORED
# ChatGLM-6B
GMASK, SOP, EOP, PAD = 5, 8, 9, 3
HELLO, BRIDGE = [427, 418], [351, 409]
# GLM-4, both files of its vocabulary
GLM4 = ("glm4", "glm4-0414")
END, START, SYSTEM, USER, ASSISTANT, OBSERVATION, LINE = 754, [756, 758], 760, 761, 762, 763, 10
YOU, GOOD, STONE_BRIDGE, A = 296, 351, 436, 97


def said(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """Turns of user and assistant, the user's first."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def conversation(*texts: str, **options) -> Example:
    return Example("", "", tuple(said(*texts, **options)))


def lists(batch) -> dict[str, list]:
    assert all(array.dtype == np.int64 for array in batch.values())
    return {name: array.tolist() for name, array in batch.items()}


# ChatGLM-6B


def test_an_advertisement_for_chatglm():
    """Source, [gMASK] <sop>, answer, <eop>; filled up on the right; trained from <sop> on."""
    processor = processor_of_tiny("chatglm")
    rows = [{"content": "桥", "summary": "你好"}, {"content": "你好桥a", "summary": "a"}]
    encoded = [row for example in map(TASKS["adgen"].format.example, rows) for row in processor.rows(example)]
    assert encoded[0].ids == [*BRIDGE, GMASK, SOP, *HELLO, EOP]
    assert lists(processor.training_batch(encoded)) == {
        "input_ids": [[351, 409, GMASK, SOP, 427, 418, PAD, PAD], [427, 418, 409, 797, GMASK, SOP, 351, 797]],
        "attention_mask": [[1, 1, 1, 1, 1, 1, 0, 0], [1] * 8],
        "position_ids": [
            [[0, 1, 2, 2, 2, 2, 0, 0], [0, 0, 0, 1, 2, 3, 0, 0]],
            [[0, 1, 2, 3, 4, 4, 4, 4], [0, 0, 0, 0, 0, 1, 2, 3]],
        ],
        "prefix_length": [3, 5],
        "labels": [[no, no, SOP, 427, 418, EOP, no, no], [no, no, no, no, SOP, 351, 797, EOP]],
    }


def test_the_published_advertisement(tmp_path):
    """ChatGLM-6B's own vocabulary, and the row of its ADGEN example: S = T = 64, 22 source tokens, 64 trained."""
    if not REAL.is_dir():
        pytest.skip(f"the real vocabulary is not at {REAL}")
    shutil.copy(REAL / "tokenizers/ice_text.model", tmp_path)
    processor = ChatProcessor(GLMTokenizer.from_pretrained(tmp_path), 64, 64)
    published = json.loads((REAL / "reference_ids/reference_ids.json").read_text(encoding="utf-8"))
    row = published["chatglm-6b"]["adgen_training_example"]
    summary = processor.tokenizer.decode(row["target_ids"]) + "而且很长很长" * 9
    (encoded,) = processor.rows(Example.of_pair(row["content"], summary))
    batch = lists(processor.training_batch([encoded]))
    assert batch["input_ids"] == [(row["source_ids"] + row["target_ids"])[:-1]]
    assert batch["labels"] == [[no] * 21 + row["target_ids"]]
    assert batch["position_ids"] == [[[*range(22), *[21] * 63], [*[0] * 22, *range(1, 64)]]]
    lost = "the oldest rounds of their source, then its end, or the end of their answer are lost"
    assert processor.truncation == [f"1 row to src_length 64 and tgt_length 64 ({lost})"]


def test_chatglm_keeps_s_minus_1_and_t_minus_2_tokens():
    processor = processor_of_tiny("chatglm", src_length=4, tgt_length=4)
    (row,) = processor.rows(conversation("你好桥a", "你好桥a"))
    assert row.ids == [427, 418, 409, GMASK, SOP, 427, 418, EOP]
    assert row.prefix_length == 4
    assert processor.truncated == {"source": 0, "row": 1}


def test_chatglm_prompts_are_filled_up_on_the_left():
    processor = processor_of_tiny("chatglm")
    prompts = [processor.text_prompt(text) for text in ("你好桥a", "桥")]
    assert lists(processor.prompt_batch(prompts)) == {
        "input_ids": [[427, 418, 409, 797, GMASK, SOP], [PAD, PAD, 351, 409, GMASK, SOP]],
        "attention_mask": [[1] * 6, [0, 0, 1, 1, 1, 1]],
        "position_ids": [[[0, 1, 2, 3, 4, 4], [0, 0, 0, 0, 0, 1]], [[0, 0, 0, 1, 2, 2], [0, 0, 0, 0, 0, 1]]],
        "prefix_length": [5, 5],
        "position_step": [0, 1],
    }


def test_a_chatglm_prompt_with_rounds():
    """Each [Round n], 问： and 答： of the history, and a row for every answer in training."""
    processor = processor_of_tiny("chatglm")
    opening, question, answer = [184, 175, 204, 373, 796, 193, 351], [365, 350], [798, 350]
    ids = processor.messages_prompt(said("你好", "好", "桥"))
    text = processor.tokenizer.decode(ids)
    assert text == "[Round 0]\n问:你好\n答:好\n[Round 1]\n问:桥\n答:"
    assert ids == [
        *(351, *opening, 386, 186, 12, *question, 421, 418, 12, *answer, 418, 12),
        *(*opening, 356, 186, 12, *question, 409, 12, *answer, GMASK, SOP),
    ]
    first, second = processor.rows(conversation("你好", "好", "桥", "你好"))
    assert first.ids == [*HELLO, GMASK, SOP, 351, 418, EOP]
    assert second.ids == [*ids, *HELLO, EOP]
    assert second.labels == [no] * (len(ids) - 1) + [SOP, *HELLO, EOP]


# GLM-4


@pytest.mark.parametrize("kind", GLM4)
def test_an_alpaca_row_for_glm4(kind):
    """Role token, line end and content; the answer's line end and the token that ends the turn are trained."""
    processor = processor_of_tiny(kind)
    rows = [{"instruction": "a.", "input": "桥", "output": "你好"}, {"instruction": "桥", "output": "好"}]
    encoded = [row for example in map(TASKS["alpaca"].format.example, rows) for row in processor.rows(example)]
    question = [*START, USER, LINE, A, 58, 32, STONE_BRIDGE, ASSISTANT]
    assert encoded[0].ids == [*question, LINE, YOU, GOOD, USER]
    assert lists(processor.training_batch(encoded)) == {
        "input_ids": [
            [*question, LINE, YOU, GOOD],
            [*START, USER, LINE, STONE_BRIDGE, ASSISTANT, LINE, GOOD, END, END, END, END],
        ],
        "attention_mask": [[1] * 12, [1] * 8 + [0] * 4],
        "position_ids": [[[*range(12)]], [[*range(8), 0, 0, 0, 0]]],
        "prefix_length": [0, 0],
        "labels": [[no] * 8 + [LINE, YOU, GOOD, USER], [no] * 5 + [LINE, GOOD, USER] + [no] * 4],
    }


@pytest.mark.parametrize("kind", GLM4)
def test_every_turn_of_a_glm4_conversation_is_trained(kind):
    processor = processor_of_tiny(kind)
    (row,) = processor.rows(conversation("桥", "你好", "a", "好", system="你"))
    assert row.ids == [
        *(*START, SYSTEM, LINE, YOU, USER, LINE, STONE_BRIDGE, ASSISTANT, LINE, YOU, GOOD),
        *(USER, LINE, A, ASSISTANT, LINE, GOOD, USER),
    ]
    assert row.labels == [no] * 9 + [LINE, YOU, GOOD, USER] + [no] * 3 + [LINE, GOOD, USER]


@pytest.mark.parametrize("kind", GLM4)
def test_a_call_of_a_tool_is_trained_with_its_name_and_observation_token(kind):
    processor = processor_of_tiny(kind, src_length=200)
    call = {"role": "assistant", "metadata": "a", "content": "桥"}
    turns = [*said("你"), call, {"role": "observation", "content": "a"}, {"role": "assistant", "content": "好"}]
    tools = ({"type": "function", "function": {"name": "a", "parameters": {}}},)
    (row,) = processor.rows(Example("", "", tuple(turns), tools))
    tail = [USER, LINE, YOU, ASSISTANT, A, LINE, STONE_BRIDGE, OBSERVATION, LINE, A, ASSISTANT, LINE, GOOD, USER]
    assert row.ids[-len(tail) :] == tail
    assert row.labels[-len(tail) :] == [
        *(no, no, no, no, A, LINE, STONE_BRIDGE, OBSERVATION, no, no, no, LINE, GOOD, USER)
    ]
    assert row.trained_tokens == 7
    assert row.ids[:3] == [*START, SYSTEM]
    assert processor.reference(Example("", "", tuple(turns[:2]), tools)) == "a\n桥"


@pytest.mark.parametrize("kind", GLM4)
def test_a_glm4_row_ends_at_s_plus_t(kind):
    processor = processor_of_tiny(kind, src_length=4, tgt_length=4)
    (row,) = processor.rows(conversation("桥", "你好你好"))
    assert row.ids == [*START, USER, LINE, STONE_BRIDGE, ASSISTANT, LINE, YOU]
    assert row.labels == [no] * 6 + [LINE, YOU]
    assert processor.truncated == {"source": 0, "row": 1}


@pytest.mark.parametrize("kind", GLM4)
def test_glm4_prompts(kind):
    processor = processor_of_tiny(kind)
    prompts = [processor.text_prompt("你好"), processor.messages_prompt(said("a", system="桥"))]
    assert lists(processor.prompt_batch(prompts)) == {
        "input_ids": [
            [END, END, *START, USER, LINE, YOU, GOOD, ASSISTANT],
            [*START, SYSTEM, LINE, STONE_BRIDGE, USER, LINE, A, ASSISTANT],
        ],
        "attention_mask": [[0, 0, *[1] * 7], [1] * 9],
        "position_ids": [[[0, 0, *range(7)]], [[*range(9)]]],
        "prefix_length": [0, 0],
        "position_step": [1],
    }


def test_both_vocabularies_of_glm4_give_the_same_rows():
    rows = [processor_of_tiny(kind).rows(conversation("桥", "你好", "a", "好")) for kind in GLM4]
    assert rows[0] == rows[1]


# What is too long


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_gives_up_its_oldest_turns(kind):
    processor = processor_of_tiny(kind, src_length=200)
    turns = said("你好", "好", "a", "好", "桥")
    whole = processor.messages_prompt(turns)
    processor.src_length = len(whole)
    assert processor.messages_prompt(turns) == whole
    assert processor.truncated["source"] == 0
    processor.src_length -= 1
    assert processor.messages_prompt(turns) == processor.messages_prompt(turns[2:])
    assert processor.truncation == [f"1 source to src_length {len(whole) - 1} ({processor.chat.cuts['source']})"]


@pytest.mark.parametrize("kind", GLM4)
def test_system_messages_stay_and_the_last_turn_must_fit(kind):
    processor = processor_of_tiny(kind, src_length=9)
    turns = said("你好", "好", "桥", system="a")
    assert processor.messages_prompt(turns) == [*START, SYSTEM, LINE, A, USER, LINE, STONE_BRIDGE, ASSISTANT]
    with pytest.raises(UsageError, match="the last turn has 10 tokens, and the prompt's limit is 9: raise src_length"):
        processor.messages_prompt(said("你好", system="a"))


@pytest.mark.parametrize("kind", KINDS)
def test_plain_prompts_have_the_models_frame_and_no_turns(kind):
    """A text that is too long loses its beginning: what follows is read off its end."""
    frames = {"chatglm": ([], [GMASK, SOP]), "chatglm2": ([824, 826], []), "chatglm3": ([824, 826], [])}
    frame = frames.get(kind, (START, []))
    ids = tokenizer_of(kind).text_ids("你好桥a")
    processor = processor_of_tiny(kind, src_length=6, plain=True)
    assert processor.text_prompt("你好桥a") == [*frame[0], *ids, *frame[1]]
    shorter = processor_of_tiny(kind, src_length=3, plain=True)
    assert shorter.text_prompt("你好桥a") == [*frame[0], ids[-1], *frame[1]]
    assert shorter.truncation == ["1 source to src_length 3 (their beginning is lost)"]
    spelt = tokenizer_of(kind).text_ids("<sop>", split_special_tokens=True)
    longer = processor_of_tiny(kind, plain=True)
    assert longer.text_prompt("<sop>") == [*frame[0], *spelt, *frame[1]]


def test_plain_texts_stay_as_they_were_written():
    ids = tokenizer_of("chatglm").text_ids("好,桥!")
    assert processor_of_tiny("chatglm").answer(ids) == "好，桥！"
    assert processor_of_tiny("chatglm", plain=True).answer(ids) == "好,桥!"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((2, 5), "src_length is 2; 2 tokens of frame and some text need at least 3"),
        ((5, 0), "tgt_length is 0, and must be at least 1"),
    ],
)
def test_lengths_that_are_too_short(kind, lengths, message):
    with pytest.raises(UsageError, match=message):
        processor_of_tiny(kind, *lengths)


def test_an_option_of_another_family():
    with pytest.raises(UsageError, match=r"no_block_position is an option of GLM .2021., this is a glm4 model"):
        processor_of_tiny("glm4", no_block_position=True)
    with pytest.raises(UsageError, match=r"GLM .2021. has no chat template, so its prompts are always plain text"):
        open_processor(vocabulary("glm").parent / "glm-tiny-chinese", plain=True)


# What fits a model


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_beyond_the_models_positions(kind):
    """Refused as soon as one position of the longest row or text would not fit, and no earlier."""
    processor = processor_of_tiny(kind, 12, 7)
    (row,) = processor.rows(conversation("a桥" * 20, "a桥" * 20))
    prompt = processor.prompt_batch([processor_of_tiny(kind, 12, 7, plain=True).text_prompt("a桥" * 20)])
    last = prompt["position_ids"][0, :, -1] + prompt["position_step"] * 6
    trained = processor.training_batch([row])["position_ids"].max()
    largest = int(max(trained, prompt["position_ids"].max(), last.max()))
    size = SHAPES[kind]["vocab_size"]
    allowed = processor.positions.longest(12, 7)
    assert largest <= allowed <= largest + 1
    processor.check_fits(size, allowed)
    with pytest.raises(UsageError, match=f"src_length 12 and tgt_length 7 need position {allowed}, and the model ends"):
        processor.check_fits(size, allowed - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_unset_lengths_are_the_models(kind):
    """7168 and 1024, unless the user or generation_config.json says otherwise, as far as the model goes."""
    tokenizer, size = tokenizer_of(kind), SHAPES[kind]["vocab_size"]

    def lengths(given, max_position):
        processor = processor_of(tokenizer, lengths=given)
        processor.check_fits(size, max_position)
        return processor.src_length, processor.tgt_length

    assert lengths((None, None), 32768) == (7168, 1024)
    assert lengths((None, None), 8191) == (7168, 1024)
    assert lengths((None, None), 2048) == (1025, 1024)
    assert lengths((None, None), 99) == (50, 50)
    assert lengths((None, 60), 99) == (40, 60)
    assert lengths((30, None), 99) == (30, 50)
    with pytest.raises(UsageError, match="src_length 500 and tgt_length 50 need position"):
        lengths((500, None), 99)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_of_another_model(kind):
    processor = processor_of_tiny(kind)
    size = len(processor.tokenizer)
    processor.check_fits(size, 256)
    with pytest.raises(GLMError, match=f"the tokenizer has {size} tokens and the model's vocabulary {size - 1} rows"):
        processor.check_fits(size - 1, 256)


# Rows that are left out


def test_rows_without_a_place_are_named_or_left_out_and_counted():
    processor = processor_of_tiny("chatglm")
    examples = [conversation("你好", "好"), conversation("a", "好", system="桥"), conversation("桥", "a")]
    why = "message 1 has the role 'system'; this model knows user, assistant: put its text into the user's question"
    first, why = f"row 1 of 2: {why}", f"row 2 of 3: {why}"
    with pytest.raises(GLMError, match=rf"^{why} \(or pass --skip_bad_rows\)$"):
        EncodedDataset(examples, processor)
    dataset = EncodedDataset(examples, processor, with_prompts=True, skip_bad_rows=True)
    assert dataset.examples == [examples[0], examples[2]]
    assert (len(dataset), len(dataset.prompts)) == (2, 2)
    assert dataset.left_out == [f"1 bad, the first is {why}"]
    with pytest.raises(GLMError, match=f"^{first}$"):
        EncodedDataset([examples[1], examples[1]], processor, skip_bad_rows=True)


def test_rows_in_which_nothing_is_trained_are_left_out_and_counted():
    processor = processor_of_tiny("glm4", src_length=4, tgt_length=4)
    examples = [conversation("桥", "你好"), conversation("你好你好你好", "桥")]
    dataset = EncodedDataset(examples, processor)
    assert len(dataset) == 1
    assert dataset.left_out == ["1 in which src_length 4 and tgt_length 4 leave no trained token"]
    assert EncodedDataset(examples[:1], processor).left_out == []
    with pytest.raises(GLMError, match="src_length 4 and tgt_length 4 leave no trained token in any of 1 rows: choose"):
        EncodedDataset(examples[1:], processor)


def test_each_source_that_is_cut_counts_once(tokenizer):
    processor = GLMProcessor(tokenizer, 5, 12)
    EncodedDataset([Example.of_pair("桥建于哪一年", "a")], processor, with_prompts=True)
    assert processor.truncation == ["1 source to src_length 5 (their beginning is lost)"]

"""Rows of a prompt and two answers: their arrays by a literal definition, and what cannot be such a row."""

import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tiny_chat import KINDS, processor_of_tiny, vocabulary

from glm.encoding.examples import IGNORED, Example
from glm.encoding.preference import PreferenceExample, PreferenceRow, encode_preference, preference_batch
from glm.encoding.preference_dataset import PreferenceDataset, PreferenceRows
from glm.encoding.processor import ChatProcessor, GLMProcessor, Processor
from glm.errors import GLMError, UsageError
from glm.tokenizers import GLMTokenizer

EVERY = ["glm", *KINDS]
BEFORE = (
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "好", "weight": 0},
    {"role": "user", "content": "云溪桥建于哪一年？"},
)


def processor_of(kind: str, tokenizer, src_length: int = 48, tgt_length: int = 12) -> Processor:
    if kind == "glm":
        return GLMProcessor(tokenizer, src_length, tgt_length)
    return processor_of_tiny(kind, src_length, tgt_length)


def answered(*answer: dict | str, before=BEFORE) -> Example:
    """A prompt with an answer of one text, or of messages."""
    messages = [{"role": "assistant", "content": each} if isinstance(each, str) else each for each in answer]
    return Example("云溪桥建于哪一年？", messages[-1]["content"], (*before, *messages))


def pair(chosen="建于1920年。", rejected="你好", place="") -> PreferenceExample:
    return PreferenceExample(answered(chosen), answered(rejected), place)


@pytest.mark.parametrize("kind", EVERY)
def test_a_row_is_a_prompt_and_two_answers(kind, tokenizer):
    """As fine-tuning encodes each; the answers before are not trained."""
    processor = processor_of(kind, tokenizer)
    row = encode_preference(processor, pair())
    (chosen,), (rejected,) = (processor.rows(example) for example in (pair().chosen, pair().rejected))
    prompt, end = row.prompt_length, row.prompt_length + row.chosen_length
    assert row.ids[:end] == chosen.ids and row.ids[:prompt] + row.ids[end:] == rejected.ids
    assert row.trained == [False] * prompt + [True] * (len(row.ids) - prompt)
    assert row.prefix_length == chosen.prefix_length and (row.prefix_length > 0) == (kind in ("glm", "chatglm"))
    stop = processor.tokenizer.stop_token_ids
    assert row.ids[end - 1] in stop and row.ids[-1] in stop


# As GLM-Z1's: a prompt begins a thought, and earlier ones are dropped.
THINKS = """\
[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>
{{ message.content.split('</think>')[-1].strip() }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
<think>{% endif %}"""
TOOLS = ({"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}},)


@pytest.mark.parametrize("template", ["own", "thinks"])
def test_system_message_tools_and_thoughts_are_those_of_fine_tuning(template, tmp_path):
    """Thoughts are part of an answer; an answer without any has empty ones behind a prompt that begins some."""
    shutil.copytree(vocabulary("glm4-0414"), tmp_path, dirs_exist_ok=True)
    if template == "thinks":
        (tmp_path / "chat_template.jinja").write_text(THINKS, encoding="utf-8")
    processor = ChatProcessor(GLMTokenizer.from_pretrained(tmp_path), 400, 100)
    before = ({"role": "system", "content": "你是老师"}, *BEFORE)
    tools = TOOLS if template == "own" else ()
    thinks = {"role": "assistant", "content": "9层", "reasoning_content": "想"}
    sides = [replace(answered(answer, before=before), tools=tools) for answer in (thinks, "好")]
    row = encode_preference(processor, PreferenceExample(*sides))
    (chosen,), (rejected,) = map(processor.rows, sides)
    prompt, end = row.prompt_length, row.prompt_length + row.chosen_length
    assert row.ids[:end] == chosen.ids and row.ids[:prompt] + row.ids[end:] == rejected.ids
    text = processor.tokenizer.decode(row.ids, skip_special_tokens=False)
    assert "你是老师" in text and ("stock" in text) == bool(tools) and ("想" in text) == (template == "thinks")
    assert text.count("</think>") == (2 if template == "thinks" else 0)


def literal(row: PreferenceRow, positions) -> dict[str, list]:
    """Each column by itself: which token of which part it is, in the words of glm/encoding/preference.py."""
    prompt, chosen = row.prompt_length, row.chosen_length
    parts = [("prompt", i) for i in range(prompt)]
    parts += [("chosen", i) for i in range(chosen - 1)] + [("prompt", prompt - 1)]
    parts += [("rejected", i) for i in range(len(row.ids) - prompt - chosen - 1)]
    start = {"prompt": 0, "chosen": prompt, "rejected": prompt + chosen}
    alone = {
        "chosen": positions.of(row.ids[: prompt + chosen], row.prefix_length),
        "rejected": positions.of(row.ids[:prompt] + row.ids[prompt + chosen :], row.prefix_length),
    }
    copy = prompt + chosen - 1

    def sees(query: int, key: int) -> bool:
        if key == copy:
            return False
        part = "rejected" if query == copy else parts[query][0]
        if parts[key][0] not in ("prompt", part):
            return False
        return key < row.prefix_length or key <= query

    width = len(parts)

    def position(part: str, i: int) -> np.ndarray:
        return alone["chosen"][:, i] if part == "prompt" else alone[part][:, prompt + i]

    return {
        "input_ids": [row.ids[start[part] + i] for part, i in parts],
        "position_ids": np.stack([position(*each) for each in parts], axis=1).tolist(),
        "labels": [row.ids[i + 1] if i >= prompt - 1 else IGNORED for i in range(width)],
        "sees": [[sees(query, key) for key in range(width)] for query in range(width)],
    }


@pytest.mark.parametrize("kind", EVERY)
def test_the_arrays_of_a_batch(kind, tokenizer):
    processor = processor_of(kind, tokenizer)
    rows = [encode_preference(processor, each) for each in (pair(), pair("9层", "云溪桥建于1920年"), pair("a", "b"))]
    batch = preference_batch(processor, rows)
    width = max(row.columns for row in rows)
    for number, row in enumerate(rows):
        real, wanted = row.columns, literal(row, processor.positions)
        assert batch["input_ids"][number, :real].tolist() == wanted["input_ids"]
        assert batch["position_ids"][number, :, :real].tolist() == wanted["position_ids"]
        assert batch["labels"][number, :real].tolist() == wanted["labels"]
        first, end = batch["visible_rows"][number]
        seen = [[bool(first[key] <= query < end[key]) for key in range(real)] for query in range(real)]
        assert seen == wanted["sees"]
        assert batch["attention_mask"][number].tolist() == [1] * real + [0] * (width - real)
        assert set(batch["labels"][number, real:]) <= {IGNORED} and not batch["visible_rows"][number, :, real:].any()
    assert batch["prefix_length"].tolist() == [0] * len(rows)
    wanted = [2 * n + side for n, row in enumerate(rows) for side, length in answer_lengths(row) for _ in range(length)]
    assert batch["answer_of"].tolist() == wanted and len(wanted) == (batch["labels"] >= 0).sum()


def answer_lengths(row: PreferenceRow) -> list[tuple[int, int]]:
    return [(0, row.chosen_length), (1, len(row.ids) - row.prompt_length - row.chosen_length)]


def test_the_token_with_id_0_is_trained():
    row = PreferenceRow([5, 6, 0, 7, 0, 0], [False, False, True, True, True, True], 2, 2)
    batch = preference_batch(processor_of_tiny("glm4"), [row])
    assert batch["labels"].tolist() == [[IGNORED, 0, 7, 0, 0]] and batch["answer_of"].tolist() == [0, 0, 1, 1]


def test_an_answer_of_several_messages():
    """A call and its result in GLM-4's form: the result is context. In ChatGLM-6B an answer is one message."""
    call = {"role": "assistant", "metadata": "stock", "content": "{}"}
    seen = {"role": "observation", "content": "9"}
    example = PreferenceExample(answered(call, seen, "9层"), answered("你好"))
    row = encode_preference(processor_of_tiny("glm4"), example)
    chosen = row.trained[row.prompt_length : row.prompt_length + row.chosen_length]
    assert not all(chosen) and chosen[0] and chosen[-1]
    batch = preference_batch(processor_of_tiny("glm4"), [row])
    assert (batch["answer_of"] == 0).sum() == sum(chosen) < row.chosen_length
    turns = PreferenceExample(answered("甲", {"role": "user", "content": "乙"}, "丙"), answered("丁"))
    with pytest.raises(GLMError, match="the chosen answer has 2 turns that this model does not write in one row"):
        encode_preference(processor_of_tiny("chatglm"), turns)


@pytest.mark.parametrize("kind", EVERY)
def test_a_pair_that_the_lengths_cut_is_none(kind, tokenizer):
    """Whichever answer it is; it does not count as truncated, which says that it is trained."""
    long = "桥" * 70
    processor = processor_of(kind, tokenizer, src_length=56)
    assert encode_preference(processor, pair()) is not None
    assert encode_preference(processor, pair(chosen=long)) is None
    assert encode_preference(processor, pair(rejected=long)) is None
    assert not any(processor.truncated.values()) and not processor.truncation


@pytest.mark.parametrize("kind", ["glm4", "glm4-0414"])
def test_a_prompt_that_fills_the_row(kind):
    processor = processor_of_tiny(kind, src_length=14, tgt_length=4)
    with pytest.raises(GLMError, match=r"the prompt fills all tokens of src_length 14 and tgt_length 4, .* raise them"):
        encode_preference(processor, pair())


@pytest.mark.parametrize("kind", EVERY)
def test_answers_that_are_none_or_the_same(kind, tokenizer):
    processor = processor_of(kind, tokenizer)
    with pytest.raises(GLMError, match="the rejected answer is empty"):
        encode_preference(processor, pair(rejected=" "))
    with pytest.raises(GLMError, match="the same tokens"):
        encode_preference(processor, pair("好", "好"))
    other = PreferenceExample(
        answered("甲"), Example("云", "乙", ({"role": "user", "content": "云"}, answered("乙").messages[-1]))
    )
    with pytest.raises(GLMError, match="what stands before the chosen answer differs from"):
        encode_preference(processor, other)


def test_flat_rows_are_the_rows():
    draw = np.random.default_rng(0)
    made = []
    for prompt, chosen, rejected in product((1, 4), (1, 3), (1, 2)):
        count = prompt + chosen + rejected
        trained = [False] * prompt + [True] * (chosen + rejected)
        made.append(PreferenceRow(draw.integers(0, 99, count).tolist(), trained, prompt, chosen, prompt // 2))
    rows = PreferenceRows()
    for row in made:
        rows.append(row)
    assert list(rows) == made and rows[-1] == made[-1]
    assert rows.columns.tolist() == [row.columns for row in made]
    with pytest.raises(IndexError):
        rows[len(made)]


# data sets


def test_a_data_set_says_what_it_leaves_out():
    processor = processor_of_tiny("glm4", 60, 12)
    examples = [pair(), pair(chosen="桥" * 60), pair("桥" * 20, "云" * 20), pair("a", "b")]
    whole = PreferenceDataset(examples, processor)
    assert len(whole) == 3 and whole.left_out == ["1 that src_length 60 and tgt_length 12 would cut"]
    longest = whole.rows[1].columns
    some = PreferenceDataset(examples, processor, max_length=longest - 1)
    assert some.left_out[1:] == [f"1 longer than max_length {longest - 1}, the longest has {longest} tokens"]
    assert list(some) == [whole.rows[0], whole.rows[2]] and some[1, 0.5] == (whole.rows[2], 0.5)
    assert some.sizes.tolist() == [1, 1] and [some.trained_tokens(n) for n in range(2)] == [1, 1]
    assert some.mean_tokens == np.mean([len(row.ids) for row in some])


def test_a_bad_pair_is_named_by_file_and_row():
    processor = processor_of_tiny("glm4", 60, 12)
    bad = PreferenceExample(
        *(answered("a", before=({"role": "user", "content": "桥" * 99},)) for _ in "ab"), "x, line 2"
    )
    with pytest.raises(GLMError, match=r"^row 2 of 3: x, line 2: the prompt fills .* \(or pass --skip_bad_rows\)$"):
        PreferenceDataset([pair(), bad, pair("好", "好")], processor)
    dataset = PreferenceDataset([pair(), bad, pair("好", "好")], processor, skip_bad_rows=True)
    assert len(dataset) == 1
    assert dataset.left_out[0].startswith("2 bad, the first is row 2 of 3: x, line 2: the prompt fills")
    with pytest.raises(GLMError, match="row 1 of 1: x, line 2"):
        PreferenceDataset([bad], processor, skip_bad_rows=True)


def test_nothing_left():
    with pytest.raises(UsageError, match=r"nothing is left to train of 2 pairs: 2 that src_length 60 .* would cut$"):
        PreferenceDataset([pair("桥" * 60), pair("a", "桥" * 60)], processor_of_tiny("glm4", 60, 12))


def test_thoughts_without_a_place_are_counted():
    thinks = {"role": "assistant", "content": "9层", "reasoning_content": "想"}
    dataset = PreferenceDataset([PreferenceExample(answered(thinks), answered("好"))], processor_of_tiny("chatglm"))
    assert dict(dataset.counts) == {"answers without their thoughts, for which the model has no place": 1}

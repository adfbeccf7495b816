"""What is trained of a conversation: loss marks, ends of turns, empty answers and thoughts, read off the rows' ids."""

import shutil
from collections import Counter

import pytest
from tiny_chat import KINDS, processor_of_tiny, tokenizer_of, vocabulary

from glm.encoding.chat_formats import chat_format
from glm.encoding.dataset import EncodedDataset
from glm.encoding.examples import (
    CUT_BY_TEMPLATE,
    EMPTY_ANSWERS,
    NO_PLACE_FOR_THOUGHTS,
    NO_THOUGHTS,
    OPEN_THOUGHTS,
    Example,
)
from glm.encoding.processor import ChatProcessor, GLMProcessor
from glm.errors import GLMError, UsageError
from glm.tokenizers import GLMTokenizer

GLM4 = ("glm4", "glm4-0414")
# As GLM-Z1's: thoughts are dropped from every answer, and a prompt begins some. With a line end behind it or without.
Z1 = """\
[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>{{ message.metadata or '' }}
{{ message.content.split('</think>')[-1].strip() }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
<think>END{% endif %}"""
# A template with a place of its own for thoughts, in the last answer alone, as GLM-4.5's and Qwen3's have.
PLACE = """\
[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>
{% if message.reasoning_content and loop.last %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{ message.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def user(text="桥"):
    return {"role": "user", "content": text}


def assistant(text="好", **fields):
    return {"role": "assistant", "content": text, **fields}


SYSTEM = {"role": "system", "content": "你"}
CALL = {"role": "assistant", "metadata": "f", "content": "{}"}
SEEN = {"role": "observation", "content": "湖"}


def example(*messages) -> Example:
    return Example("", "", tuple(messages))


def with_template(directory, template) -> GLMTokenizer:
    shutil.copytree(vocabulary("glm4-0414"), directory, dirs_exist_ok=True)
    (directory / "chat_template.jinja").write_text(template)
    return GLMTokenizer.from_pretrained(directory)


def runs(tokenizer, row) -> list[str]:
    """The text of each run of trained ids."""
    texts, ids = [], []
    for index, trained in [*zip(row.ids, row.trained, strict=True), (None, False)]:
        if trained:
            ids.append(index)
        elif ids:
            texts.append(tokenizer.decode(ids, skip_special_tokens=False))
            ids = []
    return texts


def whole(tokenizer, row) -> str:
    return tokenizer.decode(row.ids, skip_special_tokens=False)


def trained(tokenizer, *messages, counts=None) -> list[list[str]]:
    """The runs of each row."""
    return [
        runs(tokenizer, row) for row in chat_format(tokenizer).training_examples(tokenizer, messages, counts=counts)
    ]


# Marks

# What is trained of an answer of one character.
ANSWERED = {"chatglm": "<sop>你<eop>", "chatglm2": "你</s>", "chatglm3": "\n 你<|user|>"}
ANSWERED |= dict.fromkeys(("glm4", "glm4-0414"), "\n你<|user|>")


@pytest.mark.parametrize(
    "mark",
    [{"weight": 0}, {"weight": 0.0}, {"loss": False}, {"train": False}, {"loss_weight": 0}, {"loss": 0}],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_is_marked_is_context(kind, mark):
    tokenizer = tokenizer_of(kind)
    first, second = ({**user(), **mark}, assistant("好", **mark)), (user("湖"), assistant("你", weight=1, loss=True))
    (row,) = chat_format(tokenizer).training_examples(tokenizer, [*first, *second])
    plain = chat_format(tokenizer).training_examples(tokenizer, [user(), assistant(), user("湖"), assistant("你")])[-1]
    assert row.ids == plain.ids
    assert runs(tokenizer, row) == [ANSWERED[kind]]
    # Behind the last answer that is trained, a marked one teaches nothing, its end neither.
    rows = chat_format(tokenizer).training_examples(tokenizer, [*second, *first])
    assert [runs(tokenizer, row) for row in rows] == [[runs(tokenizer, row)[0]] for row in rows]
    assert len(rows) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_that_is_context_alone_is_refused(kind):
    with pytest.raises(GLMError, match="every answer of the conversation is marked as context, so there is nothing to"):
        trained(tokenizer_of(kind), user(), assistant("好", weight=0))


def test_evaluation_asks_for_the_last_answer_that_is_trained():
    for kind in KINDS:
        processor = processor_of_tiny(kind)
        marked = example(user(), assistant("你"), user("湖"), assistant("好", loss=False), user("a"), assistant(""))
        assert processor.prompt(marked) == processor.messages_prompt([user()])
        assert processor.reference(marked) == "你"


# Ends of turns


@pytest.mark.parametrize("kind", GLM4)
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ((user(), assistant(), SYSTEM, user("湖"), assistant("你")), [["\n好<|user|>"], ["\n你<|user|>"]]),
        ((user(), assistant(), assistant("你")), [["\n好<|user|>"], ["\n你<|user|>"]]),
        ((assistant(), user(), assistant("你")), [["\n好<|user|>", "\n你<|user|>"]]),
        ((user(), CALL, assistant("你")), [["f\n{}<|observation|>"], ["\n你<|user|>"]]),
        ((user(), CALL, SYSTEM, SEEN, assistant("你")), [["f\n{}<|observation|>"], ["\n你<|user|>"]]),
        ((user(), assistant(), SYSTEM), [["\n好<|user|>"]]),
        # Words and the calls behind them are one answer: generation continues over <|assistant|>.
        (
            (user(), assistant(), CALL, SEEN, assistant("你")),
            [["\n好<|assistant|>f\n{}<|observation|>", "\n你<|user|>"]],
        ),
        ((user(), CALL, CALL), [["f\n{}<|assistant|>f\n{}<|observation|>"]]),
        # Not behind words that are context.
        ((user(), assistant("好", weight=0), CALL), [["f\n{}<|observation|>"]]),
    ],
)
def test_the_end_of_a_turn_is_trained_as_a_stop_token(kind, messages, expected):
    """What is trained as an end stops generation; each answer's row begins as its prompt."""
    tokenizer = tokenizer_of(kind)
    assert trained(tokenizer, *messages) == expected
    for row in chat_format(tokenizer).training_examples(tokenizer, messages):
        assert row.ids[-1] in tokenizer.stop_token_ids


@pytest.mark.parametrize("kind", GLM4)
def test_two_answers_in_a_row_are_evaluated_as_they_are_trained(kind):
    processor = processor_of_tiny(kind)
    twice = example(user(), assistant("好"), assistant("你"))
    *_, row = processor.rows(twice)
    prompt = processor.prompt(twice)
    assert row.ids[: len(prompt)] == prompt
    assert processor.reference(twice) == "你"


@pytest.mark.parametrize("kind", GLM4)
def test_words_and_their_calls_are_evaluated_as_one_answer(kind):
    processor = processor_of_tiny(kind)
    calls = example(user(), assistant("好"), CALL, CALL)
    assert processor.prompt(calls) == processor.messages_prompt([user()])
    assert processor.reference(calls) == processor.decode(
        processor.tokenizer.text_ids("\n好<|assistant|>f\n{}<|assistant|>f\n{}")
    )


# Empty answers


@pytest.mark.parametrize("empty", ["", None, " \n"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_answer_is_context_in_every_family(kind, empty):
    tokenizer, counts = tokenizer_of(kind), Counter()
    assert trained(tokenizer, user(), assistant(empty), counts=counts) == []
    assert counts == {EMPTY_ANSWERS: 1}
    found = trained(tokenizer, user(), assistant(empty), user("湖"), assistant("你"), counts=counts)
    assert found == [[ANSWERED[kind]]]
    assert counts == {EMPTY_ANSWERS: 2}


@pytest.mark.parametrize("kind", [*KINDS, "glm"])
def test_rows_with_empty_answers_alone_are_left_out_and_counted(kind, tokenizer):
    processor = GLMProcessor(tokenizer, 48, 12) if kind == "glm" else processor_of_tiny(kind)
    full, empty = Example.of_pair("桥", "好"), Example.of_pair("桥", " ")
    dataset = EncodedDataset([full, empty, empty], processor, with_prompts=True)
    assert (dataset.examples, len(dataset.prompts), len(dataset)) == ([full], 1, 1)
    assert dataset.left_out == ["2 whose answers are empty"]
    assert dataset.counts == {EMPTY_ANSWERS: 2}
    with pytest.raises(GLMError, match="nothing is left to train of 2 rows: 0 bad, 2 whose answers are empty"):
        EncodedDataset([empty, empty], processor)


# Thoughts


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_row_begins_as_the_prompt_that_begins_thoughts(tmp_path, end):
    """The prompt's ids, the thoughts, the answer; earlier answers without thoughts, as the template writes them."""
    tokenizer = with_template(tmp_path, Z1.replace("END", end))
    processor = ChatProcessor(tokenizer, 300, 100)
    answer = {"own field": assistant("四。", reasoning_content="二加二")}
    answer |= {"text": assistant("<think>\n二加二\n</think>\n四。")}
    # What the model generated stands behind the prompt's <think>.
    answer |= {"generated": assistant("\n二加二\n</think>\n四。")}
    for message in answer.values():
        rows = processor.rows(example(user("湖"), message, user("桥"), message))
        assert [runs(tokenizer, row) for row in rows] == [["\n<think>\n二加二\n</think>\n四。<|user|>"]] * 2
        assert whole(tokenizer, rows[1]).startswith(
            "[gMASK]<sop><|user|>\n湖<|assistant|>\n四。<|user|>\n桥<|assistant|>"
        )
        for row, messages in zip(rows, ([user("湖")], [user("湖"), message, user("桥")]), strict=True):
            prompt = processor.messages_prompt(messages)
            assert row.ids[: len(prompt)] == prompt
            assert all(row.trained[len(prompt) :])
        last = example(user("湖"), message)
        written = rows[0].ids[len(processor.prompt(last)) : -1]
        assert processor.reference(last) == processor.decode(written) == "二加二\n</think>\n四。"
    assert processor.counts == {}


def test_the_tokens_of_a_prompt_do_not_run_over_into_the_answer(tmp_path):
    """Together, the prompt's last sign and the answer's first would be one token: prediction never has it there."""
    turn = "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>：{{ message.content }}{% endfor %}"
    tokenizer = with_template(tmp_path, turn + "{% if add_generation_prompt %}<|assistant|>：{% endif %}")
    assert len(tokenizer.encode("：大")) == 1
    prompt = chat_format(tokenizer).prompt_ids(tokenizer, [user()])
    (row,) = chat_format(tokenizer).training_examples(tokenizer, [user(), assistant("大")])
    assert row.ids[: len(prompt)] == prompt
    assert runs(tokenizer, row) == ["：大<|user|>"]


def test_an_answer_without_thoughts_is_trained_with_empty_ones(tmp_path):
    tokenizer, counts = with_template(tmp_path, Z1.replace("END", "")), Counter()
    found = trained(tokenizer, user(), assistant("四。"), user(), CALL, counts=counts)
    assert found == [["\n<think>\n\n</think>\n四。<|user|>"], ["\n<think>\n\n</think>\nf\n{}<|observation|>"]]
    assert counts == {NO_THOUGHTS: 2}
    calling = chat_format(tokenizer).answer("嗯\n</think>\nf\n{}<|observation|>", [{"name": "f"}])
    assert calling == CALL
    alone = trained(tokenizer, user(), assistant(None, reasoning_content="嗯"), counts=counts)
    assert alone == [["\n<think>\n嗯\n</think>\n<|user|>"]]
    assert EMPTY_ANSWERS not in counts


def test_words_and_thoughts_before_a_call_do_not_end_the_turn(tmp_path):
    """Where a template rewrites earlier answers, the call has a row of its own, and the words continue to it."""
    tokenizer = with_template(tmp_path, Z1.replace("END", ""))
    found = trained(tokenizer, user(), assistant("<think>嗯</think>好"), CALL, CALL, SEEN, assistant())
    ends = ["嗯</think>好<|assistant|>", "f\n{}<|assistant|>", "f\n{}<|observation|>", "</think>\n好<|user|>"]
    assert len(found) == 4
    assert all(texts[-1].endswith(end) for texts, end in zip(found, ends, strict=True))


def test_an_open_thought_is_counted(tmp_path):
    tokenizer, counts = with_template(tmp_path, Z1.replace("END", "\n")), Counter()
    assert trained(tokenizer, user(), assistant("<think>\n嗯"), counts=counts) == [["\n<think>\n嗯<|user|>"]]
    assert counts == {OPEN_THOUGHTS: 1}


def test_what_a_template_leaves_out_of_an_answer_is_counted(tmp_path):
    turn = "[gMASK]<sop>{% for message in messages %}<|{{ message.role }}|>\n{{ message.content[:3] }}{% endfor %}"
    template = turn + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    tokenizer, counts = with_template(tmp_path, template), Counter()
    assert trained(tokenizer, user(), assistant("好好好"), user(), assistant("好好好四"), counts=counts) == [
        ["\n好好好<|user|>", "\n好好好<|user|>"]
    ]
    assert counts == {CUT_BY_TEMPLATE: 1}


def test_special_tokens_in_thoughts_are_text(tmp_path):
    tokenizer = with_template(tmp_path, Z1.replace("END", ""))
    for message in (assistant("好", reasoning_content="<|user|>"), assistant("<think><|user|></think>好<|user|>")):
        (row,) = chat_format(tokenizer).training_examples(tokenizer, [user(), message])
        assert row.ids.count(tokenizer.convert_tokens_to_ids("<|user|>")) == 2


def test_a_template_with_a_place_for_thoughts_writes_them(tmp_path):
    tokenizer, counts = with_template(tmp_path, PLACE), Counter()
    messages = [user(), assistant("好", reasoning_content="嗯"), user("湖"), assistant("你", reasoning="哦")]
    rows = chat_format(tokenizer).training_examples(tokenizer, messages, counts=counts)
    assert [runs(tokenizer, row) for row in rows] == [
        ["\n<think>嗯</think>好<|user|>"],
        ["\n<think>哦</think>你<|user|>"],
    ]
    assert "嗯" not in whole(tokenizer, rows[1])
    assert counts == {}


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_without_a_place_are_counted(kind):
    tokenizer, counts = tokenizer_of(kind), Counter()
    plain = chat_format(tokenizer).training_examples(tokenizer, [user(), assistant()])
    thoughtful = [user(), assistant(reasoning_content="嗯")]
    assert chat_format(tokenizer).training_examples(tokenizer, thoughtful, counts=counts) == plain
    assert counts == {NO_PLACE_FOR_THOUGHTS: 1}
    assert trained(tokenizer, user(), assistant("", reasoning_content="嗯"), counts=counts) == []
    assert counts == {NO_PLACE_FOR_THOUGHTS: 2, EMPTY_ANSWERS: 1}
    ((inside,),) = trained(tokenizer, user(), assistant("<think>a</think>好"), counts=counts)
    assert "<think>a</think>好" in inside
    assert counts[NO_PLACE_FOR_THOUGHTS] == 2


def test_thoughts_that_a_template_drops_are_counted(tmp_path):
    template = Z1.replace("\n<think>END", "")
    tokenizer, counts = with_template(tmp_path, template), Counter()
    assert trained(tokenizer, user(), assistant("<think>嗯</think>好"), counts=counts) == [["\n好<|user|>"]]
    assert counts == {NO_PLACE_FOR_THOUGHTS: 1}


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_prompt_that_shuts_thoughts_off(tmp_path, end):
    tokenizer, counts = with_template(tmp_path, Z1.replace("END", f"\n\n</think>{end}")), Counter()
    found = trained(tokenizer, user(), assistant(), user(), assistant("<think>嗯</think>好"), counts=counts)
    assert found == [["\n<think>\n\n</think>\n好<|user|>"]] * 2
    assert counts == {NO_PLACE_FOR_THOUGHTS: 1}


def test_a_prompt_that_begins_what_no_answer_begins(tmp_path):
    """Neither a line end nor a thought: prediction would start where no row does."""
    tokenizer = with_template(tmp_path, Z1.replace("<think>END", "答"))
    with pytest.raises(GLMError, match="the chat template does not write message 2 where it asks for it"):
        trained(tokenizer, user(), assistant())


def test_thoughts_are_counted_where_a_glm_reads_texts(tokenizer):
    messages = (user(), assistant(reasoning_content="嗯"))
    dataset = EncodedDataset([Example("桥", "好", messages)], GLMProcessor(tokenizer, 48, 12))
    assert dataset.counts == {NO_PLACE_FOR_THOUGHTS: 1}


# What is too long


@pytest.mark.parametrize("kind", GLM4)
def test_a_long_question_is_cut_in_evaluation_as_in_training_and_counted(kind):
    """Nothing stops: the question loses its end. A user's own prompt is refused instead, who can shorten it."""
    processor = processor_of_tiny(kind, src_length=9, tgt_length=20)
    long = example(SYSTEM, user("湖"), assistant("好"), user("桥" * 12), assistant("你"))
    dataset = EncodedDataset([long, example(user(), assistant())], processor, with_prompts=True)
    tokenizer = processor.tokenizer
    # The oldest turn goes first, then the end of the question; what begins the answer stays.
    cut = "[gMASK]<sop><|system|>\n你<|user|>\n桥<|assistant|>"
    assert tokenizer.decode(dataset.prompts[0], skip_special_tokens=False) == cut
    assert [len(dataset.prompts[0]), processor.truncated["source"]] == [9, 1]
    assert dataset.prompts[1] == processor.messages_prompt([user()])
    with pytest.raises(UsageError, match="the last turn has 20 tokens, and the prompt's limit is 9: raise src_length"):
        processor.messages_prompt(long.messages[:-1])

"""Conversations: streamed pieces against the whole answer, what is remembered, forms of history, calls of tools."""

import random
from itertools import pairwise

import numpy as np
import paddle
import pytest
from tiny_chat import KINDS, chat_model, processor_of_tiny, tokenizer_of
from tiny_glm import tensors, tiny_model

from glm import GLMTokenizer
from glm.encoding.examples import Example
from glm.encoding.processor import ChatProcessor, GLMProcessor
from glm.errors import GLMError, UsageError
from glm.generation.search import Prompt, StopTokens
from glm.inference.conversation import Conversation
from glm.inference.model_generator import ModelGenerator

GLM4 = ("glm4", "glm4-0414")
# What cleaning changes, what looks like it, and what an unfinished text must hold back.
FRAGMENTS = [
    *("[[训练时间]]", "[[训练", "时间]]", "[", "]", "[[", "训", "练时"),
    *(",", "!", ":", ";", "?", "，", "。", " ", "  ", "\n", "\t", "\u3000", "\u00a0"),
    *("好", "桥", "a", "B7", "👋", "é", "<|user|>", "2023年"),
]
SYSTEM = {"role": "system", "content": "a"}
TOOL = {"type": "function", "function": {"name": "stock", "parameters": {"type": "object", "properties": {}}}}
CALL = {"role": "assistant", "metadata": "stock", "content": '{"thing": "鸡蛋"}'}
RESULT = '{"count": 88}'


@pytest.fixture(scope="module")
def models():
    return {kind: chat_model(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def alone(model, processor, messages, **options) -> str:
    """The answer to `messages`, generated at once."""
    prompt = Prompt.of(processor.prompt_batch([processor.messages_prompt(messages)]))
    tokens, _ = model.generate(prompt, processor.generation_config(**options), StopTokens.of(processor))
    return processor.answer(tokens[0].tolist())


# Pieces


def random_text(draw: random.Random) -> str:
    return "".join(draw.choices(FRAGMENTS, k=draw.randint(0, 14)))


def assert_pieces(processor, ids: list[int]) -> None:
    pieces = list(processor.stream(iter(ids)))
    assert "".join(pieces) == processor.answer(ids), processor.tokenizer.decode(ids)
    assert len(pieces) == len(ids) + 1


@pytest.mark.parametrize("name", [*KINDS, "plain", "glm"])
def test_pieces_make_the_answer(name, tokenizer):
    """Random texts of what cleaning touches; a piece is never taken back, as joined they are the cleaned whole."""
    if name == "glm":
        processor = GLMProcessor(tokenizer, 48, 12)
    else:
        processor = processor_of_tiny("chatglm", plain=True) if name == "plain" else processor_of_tiny(name)
    draw = random.Random(4)
    for _ in range(300):
        assert_pieces(processor, processor.tokenizer.text_ids(random_text(draw)))


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_random_tokens(kind):
    """Special tokens, and bytes that make no character."""
    processor, draw = processor_of_tiny(kind), np.random.default_rng(5)
    for _ in range(100):
        assert_pieces(processor, draw.integers(0, len(processor.tokenizer), draw.integers(0, 20)).tolist())


def test_pieces_come_as_soon_as_they_are_certain():
    processor = processor_of_tiny("chatglm")
    ids = processor.tokenizer.text_ids("你好,桥!a[[训练时间]]b")
    shown = list(processor.stream(ids))
    first = shown[: len(processor.tokenizer.text_ids("你好"))]
    assert "".join(first) == "你好"
    assert "".join(shown) == "你好，桥！a2023年b"
    assert shown[2] == ""  # the comma may stand before a Chinese character or not
    assert "".join(shown[:6]) == "你好，桥！a"


# Memory


def test_a_conversation_remembers(kind, models):
    """Each answer is the one to all that was said before."""
    model, processor = models[kind], processor_of_tiny(kind, src_length=150)
    conversation = Conversation(ModelGenerator(model, processor), processor.generation_config())
    first = "".join(conversation.ask("你好"))
    assert first == alone(model, processor, [user("你好")])
    second = "".join(conversation.ask("桥"))
    said = [user("你好"), assistant(first), user("桥")]
    assert second == alone(model, processor, said) != alone(model, processor, [user("桥")])
    assert conversation.messages == [*said, assistant(second)]
    assert conversation.tokens == processor.tgt_length


def test_a_system_message_stays(models):
    model, processor = models["glm4"], processor_of_tiny("glm4", src_length=150)
    conversation = Conversation(ModelGenerator(model, processor), processor.generation_config(), [SYSTEM])
    assert "".join(conversation.ask("你好")) == alone(model, processor, [SYSTEM, user("你好")])
    assert conversation.messages[0] == SYSTEM


def test_what_does_not_fit_changes_nothing(models):
    processor = processor_of_tiny("glm4", src_length=9)
    conversation = Conversation(ModelGenerator(models["glm4"], processor), processor.generation_config())
    list(conversation.ask("桥"))
    before = list(conversation.messages)
    with pytest.raises(UsageError, match="the last turn has 19 tokens, and the prompt's limit is 9"):
        list(conversation.ask("桥" * 14))
    with pytest.raises(GLMError, match="message 3 has the role 'nobody'"):
        list(conversation.ask("桥", role="nobody"))
    assert conversation.messages == before
    assert len(before) == 2
    assert "".join(conversation.ask("a"))


def test_an_answer_that_is_broken_off_is_not_remembered(kind, models):
    processor = processor_of_tiny(kind)
    conversation = Conversation(ModelGenerator(models[kind], processor), processor.generation_config())
    pieces = conversation.ask("你好")
    next(pieces)
    pieces.close()
    assert conversation.messages == []


def test_beams_are_for_no_conversation(models):
    processor = processor_of_tiny("glm4")
    message = "a conversation or a stream shows tokens as they come, and num_beams 2 chooses them at the end: use 1"
    with pytest.raises(UsageError, match=message):
        Conversation(ModelGenerator(models["glm4"], processor), processor.generation_config(num_beams=2))
    with pytest.raises(UsageError, match=message):
        models["glm4"].chat(processor, "你好", num_beams=2)


# model.chat


def test_chat_takes_a_tokenizer_and_gives_the_history(kind, models):
    model, processor = models[kind], processor_of_tiny(kind, src_length=150)
    first, history = model.chat(processor.tokenizer, "你好", max_new_tokens=12)
    assert first == alone(model, processor, [user("你好")])
    assert history == [user("你好"), assistant(first)]
    second, longer = model.chat(processor, "桥", history)
    assert second == alone(model, processor, [*history, user("桥")])
    assert longer == [*history, user("桥"), assistant(second)]
    assert len(history) == 2


def test_pairs_come_back_as_pairs(kind, models):
    model, processor = models[kind], processor_of_tiny(kind, src_length=150)
    messages = [user("你好"), assistant("好")]
    answer, pairs = model.chat(processor, "桥", [("你好", "好")])
    assert answer == model.chat(processor, "桥", messages)[0]
    assert pairs == [("你好", "好"), ("桥", answer)]
    assert model.chat(processor, "a", pairs)[1][:2] == pairs


@pytest.mark.parametrize("wrong", [["你好"], [("你好",)], [("a", "b", "c")]])
def test_a_history_that_is_none(models, wrong):
    with pytest.raises(UsageError, match=r"turn 1 of the history is no \(question, answer\) pair: "):
        models["glm4"].chat(processor_of_tiny("glm4"), "桥", wrong)


def test_stream_chat_grows_to_chats_answer(kind, models):
    model, processor = models[kind], processor_of_tiny(kind, src_length=150)
    steps = list(model.stream_chat(processor, "你好"))
    assert steps[-1] == model.chat(processor, "你好")
    texts = [text for text, _ in steps]
    assert len(texts) > 3
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert all(history == [user("你好"), assistant(text)] for text, history in steps)


def test_options_of_chat(models):
    """Named as in Hugging Face's generate: max_length counts the prompt."""
    model, processor = models["glm4"], processor_of_tiny("glm4", src_length=150)
    question = processor.messages_prompt([user("你好")])
    longer, shorter = (model.chat(processor, "你好", max_new_tokens=n)[0] for n in (12, 5))
    assert longer.startswith(shorter) and longer != shorter
    assert model.chat(processor, "你好", max_length=len(question) + 5)[0] == shorter
    assert model.chat(processor, "你好", max_length=len(question) + 9, max_new_tokens=5)[0] == shorter
    drawn = {model.chat(processor, "你好", do_sample=True, temperature=3.0, seed=seed)[0] for seed in (1, 2, 2)}
    assert len(drawn) == 2
    assert model.chat(processor.tokenizer, "你好", src_length=7, max_new_tokens=5)[0] == shorter
    with pytest.raises(UsageError, match="the last turn has 7 tokens, and the prompt's limit is 6"):
        model.chat(processor.tokenizer, "你好", src_length=6)
    with pytest.raises(UsageError, match="max_length 7 has no room for an answer to a prompt of 7 tokens"):
        model.chat(processor, "你好", max_length=7)
    with pytest.raises(UsageError, match="unknown option 'beams'; known: begin_suppress_tokens, do_sample, freq"):
        model.chat(processor, "你好", beams=3)


def test_glm_2021_has_no_chat(tokenizer):
    with pytest.raises(UsageError, match="holds no conversations"):
        tiny_model().chat(tokenizer, "你好")


# Tools


@pytest.fixture(scope="module", params=GLM4)
def caller(request):
    """A model that has learnt one conversation with a call by heart."""
    processor = processor_of_tiny(request.param, src_length=400, tgt_length=40)
    turns = [user("鸡蛋？"), CALL, {"role": "observation", "content": RESULT}, assistant("有88个。")]
    rows = processor.rows(Example("", "", tuple(turns), (TOOL,)))
    model = chat_model(request.param)
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    batch = tensors(processor.training_batch(rows))
    for _ in range(60):
        loss = model(**batch)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(loss) < 0.05
    model.eval()
    return model, processor


def test_a_call_and_its_result(caller):
    """The call ends with <|observation|>, carries the tool's name, and its result makes the answer."""
    model, processor = caller
    conversation = Conversation(ModelGenerator(model, processor), processor.generation_config(), tools=[TOOL])
    assert "".join(conversation.ask("鸡蛋？")) == f"stock\n{CALL['content']}"
    assert conversation.messages[-1] == CALL
    assert "".join(conversation.ask(RESULT, role="observation")) == "有88个。"
    assert conversation.messages[-1] == assistant("有88个。")
    assert [message["role"] for message in conversation.messages] == ["user", "assistant", "observation", "assistant"]


def test_chat_with_tools(caller):
    model, processor = caller
    call, history = model.chat(processor, "鸡蛋？", tools=[TOOL])
    assert (call, history[-1]) == (CALL["content"], CALL)
    answer, history = model.chat(processor, RESULT, history, role="observation", tools=[TOOL])
    assert answer == "有88个。"
    assert history[1] == CALL


def test_a_tool_that_was_not_offered_is_text():
    processor = processor_of_tiny("glm4")
    ids = processor.tokenizer.text_ids("stock\n{}")
    assert processor.message(ids, [TOOL]) == {"role": "assistant", "metadata": "stock", "content": "{}"}
    assert processor.message(ids) == assistant("stock\n{}")


def test_a_call_in_a_turn_of_its_own():
    """GLM-4 says something and continues with <|assistant|>: the call counts; without one, all that was said."""
    processor = processor_of_tiny("glm4")
    ids = processor.tokenizer.text_ids("\n好<|assistant|>stock\n{}<|observation|>")
    assert processor.message(ids, [TOOL])["metadata"] == "stock"
    talk = processor.tokenizer.text_ids("\n好<|assistant|>\n桥<|user|>")
    assert processor.message(talk, [TOOL]) == assistant("好\n桥") == assistant("".join(processor.stream(talk)))


def test_chatglm_calls_no_tools(models):
    with pytest.raises(GLMError, match="this model calls no tools"):
        models["chatglm"].chat(processor_of_tiny("chatglm"), "你好", tools=[TOOL])


def test_chatglm_answers_are_cleaned():
    tokenizer = tokenizer_of("chatglm")
    assert isinstance(tokenizer, GLMTokenizer) or tokenizer.kind == "chatglm"
    processor = ChatProcessor(tokenizer)
    assert processor.message(tokenizer.text_ids("好,桥")) == assistant("好，桥")

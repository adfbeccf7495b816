"""Messages in the forms that people have: the tokens are those of GLM-4's own, in data files and in calls alike."""

import json

import pytest
from tiny_chat import chat_model, processor_of_tiny, tokenizer_of

from glm.datasets.tasks import load_examples
from glm.encoding.chat_formats import chat_format
from glm.encoding.messages import normal_messages
from glm.errors import GLMError
from glm.inference.conversation import Conversation
from glm.inference.model_generator import ModelGenerator

KINDS = ("glm4", "glm4-0414")
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
ARGUMENTS = {"city": "北京"}
SYSTEM = {"role": "system", "content": "你是助手。"}
USER = {"role": "user", "content": "天气"}
CALL = {"role": "assistant", "metadata": "get_weather", "content": '{"city": "北京"}'}
SEEN = {"role": "observation", "content": "晴"}
ANSWER = {"role": "assistant", "content": "好"}
OWN = [SYSTEM, USER, CALL, SEEN, ANSWER]


def calling(arguments, **fields):
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call], **fields}


def text(*parts):
    return [{"type": "text", "text": part} for part in parts]


RESULT = {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "晴"}
# Each is the conversation OWN.
FORMS = {
    "parts": [{**message, "content": text(message["content"])} for message in OWN],
    "several parts": [SYSTEM, {"role": "user", "content": text("天", "气")}, CALL, SEEN, ANSWER],
    "parts of the Responses API": [SYSTEM, {**USER, "content": [{"type": "input_text", "text": "天气"}]}, *OWN[2:]],
    "tool calls, null content": [SYSTEM, USER, calling(json.dumps(ARGUMENTS), content=None), RESULT, ANSWER],
    "arguments as an object": [SYSTEM, USER, calling(ARGUMENTS, content=""), RESULT, ANSWER],
    "arguments as compact text": [SYSTEM, USER, calling('{"city":"北京"}'), RESULT, ANSWER],
    "function_call": [
        *(SYSTEM, USER, {"role": "assistant", "content": None, "function_call": calling(ARGUMENTS)["tool_calls"][0]}),
        *({"role": "function", "name": "get_weather", "content": "晴"}, ANSWER),
    ],
    "developer": [{**SYSTEM, "role": "developer"}, *OWN[1:]],
    "other spellings": [
        {**message, "role": role}
        for message, role in zip(OWN, ("SYSTEM", "User", "ASSISTANT", "Tool", " Assistant"), strict=True)
    ],
    "other names": [
        {**message, "role": role}
        for message, role in zip(OWN, ("system", "human", "gpt", "ipython", "bot"), strict=True)
    ],
    "nulls": [{**message, "tool_calls": None, "refusal": None, "name": None, "weight": None} for message in OWN],
    "a refusal": [*OWN[:4], {"role": "assistant", "content": None, "refusal": "好"}],
    "a part that refuses": [*OWN[:4], {"role": "assistant", "content": [{"type": "refusal", "refusal": "好"}]}],
    "ShareGPT": [
        *({"from": "system", "value": "你是助手。"}, {"from": "human", "value": "天气"}),
        {"from": "function_call", "value": json.dumps({"name": "get_weather", "arguments": ARGUMENTS})},
        *({"from": "observation", "value": "晴"}, {"from": "model", "value": "好"}),
    ],
}
# A call with the older field wraps the function as `tool_calls` does; the field itself holds the function alone.
FORMS["function_call"][2]["function_call"] = FORMS["function_call"][2]["function_call"]["function"]


@pytest.fixture
def load(tmp_path):
    def loaded(messages, **row):
        path = tmp_path / "train.jsonl"
        path.write_text(json.dumps({"messages": messages, **row}, ensure_ascii=False), encoding="utf-8")
        return load_examples("messages", "train", str(path)).examples[0]

    return loaded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_tokens_of_glms_own(form, kind, load):
    processor, chat = processor_of_tiny(kind, src_length=400), chat_format(tokenizer_of(kind))
    wanted = processor.rows(load(OWN, tools=[WEATHER]))
    assert processor.rows(load(FORMS[form], tools=[WEATHER])) == wanted
    assert chat.training_examples(processor.tokenizer, FORMS[form], [WEATHER]) == wanted
    prompt = chat.prompt_ids(processor.tokenizer, OWN[:4], [WEATHER])
    assert chat.prompt_ids(processor.tokenizer, FORMS[form][:4], [WEATHER]) == prompt


def test_what_is_in_the_one_form_stays_as_it_is():
    marked = [SYSTEM, {**USER, "name": "a"}, {**ANSWER, "weight": 0}, USER, {**ANSWER, "reasoning_content": "h"}]
    for messages in (OWN, marked, *FORMS.values()):
        normal = normal_messages(messages)
        assert normal_messages(normal) == normal
    assert normal_messages(OWN) == OWN
    assert normal_messages(marked) == marked


def test_parallel_calls_and_their_results_in_the_order_of_the_calls(load):
    def call(number, thing):
        return {"id": f"c{number}", "function": {"name": "f", "arguments": {"x": thing}}}

    def result(number, content):
        return {"role": "tool", "tool_call_id": f"c{number}", "content": content}

    calls = {"role": "assistant", "content": "先查", "tool_calls": [call(1, "桥"), call(2, "湖")]}
    example = load([USER, calls, result(2, "二"), result(1, "一"), ANSWER])
    assert example.messages == (
        *(USER, {"role": "assistant", "content": "先查"}),
        *({"role": "assistant", "metadata": "f", "content": json.dumps({"x": x}, ensure_ascii=False)} for x in "桥湖"),
        *({"role": "observation", "content": "一"}, {"role": "observation", "content": "二"}, ANSWER),
    )
    # Results that name no call stay in the order in which they came.
    unnamed = [USER, calls, {"role": "tool", "content": "二"}, result(1, "一"), ANSWER]
    assert [message["content"] for message in load(unnamed).messages[-3:]] == ["二", "一", "好"]


@pytest.mark.parametrize("kind", KINDS)
def test_tools_beside_the_messages_and_inside_are_all_there(kind, load):
    more = {"type": "function", "function": {"name": "more", "parameters": {}}}
    processor = processor_of_tiny(kind, src_length=500)
    inside = load([{**SYSTEM, "tools": [more, WEATHER]}, *OWN[1:]], tools=[WEATHER])
    assert processor.rows(inside) == processor.rows(load(OWN, tools=[WEATHER, more]))


def test_the_functions_of_openais_older_rows(load):
    function = WEATHER["function"]
    assert load(OWN, functions=[function]) == load(OWN, tools=[WEATHER])


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "a part of type 'image_url'"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "a part of type 'input_audio', and these models read"),
        ({"role": "user", "content": [{"type": "text"}]}, "field 'text' is null, not text"),
        ({"role": "user", "content": None}, "field 'content' is null, not text"),
        ({"role": "tool", "content": None}, "field 'content' is null, not text"),
        ({"role": "assistant", "tool_calls": "["}, "field 'tool_calls' is not valid JSON"),
        ({"role": "assistant", "content": "a", "weight": 0.5}, "field 'weight' is 0.5: an answer is trained (1) or no"),
        ({"role": "assistant", "content": "a", "loss": "no"}, "field 'loss' is \"no\": an answer is trained (1) or no"),
        ({"role": "assistant", "content": "a", "weight": 1, "loss": False}, "'weight' and 'loss' contradict each ot"),
        ({"role": "user", "content": "a", "loss": True}, "field 'loss' asks to train the user's text, and only answ"),
    ],
)
def test_what_cannot_be_read_is_named_alike_in_data_and_in_calls(message, problem, load):
    with pytest.raises(GLMError) as called:
        chat_format(tokenizer_of("glm4")).prompt_ids(tokenizer_of("glm4"), [SYSTEM, message])
    with pytest.raises(GLMError) as read:
        load([SYSTEM, message, ANSWER])
    assert problem in str(called.value)
    assert f"train.jsonl, line 1: {called.value}; fix the row" in str(read.value)
    assert str(called.value).startswith("message 2: ")
    assert "\n" not in str(read.value)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"role": "developer", "content": "a"}, USER], "message 1 has the role 'developer'; this model knows user, "),
        ([USER, calling(ARGUMENTS), RESULT], "message 2 calls a tool, and this model calls none: leave calls of tools"),
        ([USER, ANSWER, RESULT], "message 3 has the role 'tool'; this model knows user, assistant: leave calls"),
        ([USER, USER], "message 2 is the user's; user and assistant take turns in this model: join it with message 1"),
        ([USER, ANSWER, ANSWER, USER], "message 3 is the assistant's; .*: join it with message 2"),
        ([ANSWER, USER], "message 1 is the assistant's; .*: put the user's question before it"),
    ],
)
def test_chatglm_says_what_to_do_with_what_it_has_no_place_for(messages, problem):
    with pytest.raises(GLMError, match=problem):
        chat_format(tokenizer_of("chatglm")).prompt_ids(tokenizer_of("chatglm"), messages)


def test_a_blank_system_message_needs_no_place():
    tokenizer = tokenizer_of("chatglm")
    blank = [{**SYSTEM, "content": " "}, USER]
    assert chat_format(tokenizer).prompt_ids(tokenizer, blank) == chat_format(tokenizer).prompt_ids(tokenizer, [USER])


def test_columns_of_tables(load):
    """JSON texts in the place of values, null for nothing, and null under the names that a row has no use for."""
    plain, calling_tools = load([USER, ANSWER]), load([USER, ANSWER], tools=[WEATHER])
    assert load(json.dumps([USER, ANSWER])) == plain
    assert load(None, conversations=[USER, ANSWER]) == plain
    assert load([USER, {"role": "assistant", "content": []}, USER, ANSWER]).messages[1]["content"] == ""
    for nothing in ("null", " ", "[]", None):
        assert load([USER, ANSWER], tools=nothing) == plain
    assert load([USER, ANSWER], system=" ") == plain
    assert load([USER, ANSWER], system=None, system_prompt="你") == load([USER, ANSWER], system="你")
    for form in (json.dumps([WEATHER]), [json.dumps(WEATHER)], json.dumps([json.dumps(WEATHER)])):
        assert load([USER, ANSWER], tools=form) == calling_tools
    with pytest.raises(GLMError, match="line 1: field 'messages' is not valid JSON"):
        load("[{")


def test_thoughts_in_two_places_are_one(load):
    twice = {"role": "assistant", "content": "<think>\n想\n</think>\n\n好", "reasoning_content": "想\n"}
    assert load([USER, twice]) == load([USER, {**ANSWER, "reasoning_content": "想\n"}])
    assert load([USER, {**twice, "reasoning_content": None}]).messages[1]["content"] == twice["content"]
    with pytest.raises(GLMError, match="message 2: thoughts are in a field of their own and, other ones, in <think>"):
        load([USER, {**twice, "reasoning_content": "另"}])


def test_calls_take_openais_forms():
    """`model.chat`, a conversation and its history, and messages of a pipeline's prompt."""
    model, tokenizer = chat_model("glm4"), tokenizer_of("glm4")
    options = {"src_length": 250, "max_new_tokens": 3, "tools": [WEATHER]}
    own, _ = model.chat(tokenizer, "晴", OWN[:3], role="observation", **options)
    openai, history = model.chat(tokenizer, "晴", [*FORMS["parts"][:2], calling(ARGUMENTS)], role="Tool", **options)
    assert openai == own
    assert history[:3] == [*FORMS["parts"][:2], calling(ARGUMENTS)]
    processor = processor_of_tiny("glm4", src_length=300, tgt_length=3)
    answers = []
    for messages in (OWN[:4], FORMS["tool calls, null content"][:4]):
        conversation = Conversation(
            ModelGenerator(model, processor), processor.generation_config(), messages, [WEATHER]
        )
        answers.append("".join(conversation.ask("桥", role="USER")))
    assert answers[0] == answers[1]
    assert processor.messages_prompt(FORMS["developer"][:2]) == processor.messages_prompt(OWN[:2])

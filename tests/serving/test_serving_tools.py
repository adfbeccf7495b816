"""Tools and JSON over HTTP: calls in OpenAI's form, streamed as unstreamed, and what holds a text to a grammar."""

import json

import pytest
from live_server import chat, live
from simulated_core import OPENED

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": PLACE}}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, TIME]
# What the model writes → content, and the calls as (name, arguments).
ANSWERS = {
    'get_weather\n{"city": "北京"}': (None, [("get_weather", '{"city": "北京"}')]),
    "get_weather 是一个工具。": ("get_weather 是一个工具。", []),
    "好。\nget_time\n{}": ("好。", [("get_time", "{}")]),
    "get_weather\n{broken": (None, [("get_weather", "{broken")]),
}


@pytest.fixture(scope="module")
def roomy():
    """The prompt with tools is longer than the usual context."""
    with live(columns=1024) as found:
        yield found


def joined(chunks) -> tuple[str | None, list[tuple[str, str]], str]:
    """Content, calls and the reason of a stream."""
    content, calls, reason = "", [], None
    for chunk in chunks:
        [choice] = chunk["choices"]
        content += choice["delta"].get("content") or ""
        for part in choice["delta"].get("tool_calls", []):
            if "id" in part:
                assert part["index"] == len(calls) and part["type"] == "function"
                calls.append([part["function"]["name"], ""])
            calls[part["index"]][1] += part["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    return content or None, [tuple(call) for call in calls], reason


@pytest.mark.parametrize("text", ANSWERS)
def test_19_calls_are_parsed_streamed_and_whole(roomy, text):
    content, calls = ANSWERS[text]
    body = chat(f"say:{text}", tools=TOOLS, max_tokens=100)
    [choice] = roomy.post(CHAT, body)[1]["choices"]
    message = choice["message"]
    found = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
    assert (message["content"], found) == (content, calls)
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    assert joined(roomy.chunks(CHAT, body)) == (content, calls, choice["finish_reason"])


def test_without_tools_nothing_is_a_call(roomy):
    text = 'get_weather\n{"city": "北京"}'
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        [choice] = roomy.post(CHAT, chat(f"say:{text}", max_tokens=100, **more))[1]["choices"]
        assert choice["message"]["content"] == text and choice["finish_reason"] == "stop"


def test_a_call_and_its_result_go_back(roomy):
    """The whole round, as a client sends it: the model sees call and observation in its own turns."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    messages = [
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "say:晴"},
    ]
    status, found = roomy.post(CHAT, {"messages": messages, "tools": TOOLS})
    assert status == 200 and found["choices"][0]["message"]["content"] == "晴"


def test_the_openai_package_reads_the_calls(roomy):
    openai = pytest.importorskip("openai", reason="requirements-test.txt is not installed")
    with openai.OpenAI(base_url=f"{roomy.url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "tiny", "messages": [{"role": "user", "content": 'say:get_weather\n{"city": "a"}'}]}
        [choice] = client.chat.completions.create(**asked, tools=TOOLS).choices
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "a"}
        with client.chat.completions.stream(**asked, tools=TOOLS) as stream:
            for _ in stream:
                pass
            call = stream.get_final_completion().choices[0].message.tool_calls[0]
        assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "a"}')


def test_what_holds_a_text_reaches_the_engine(roomy):
    def constraint(**more) -> str | None:
        assert roomy.post(CHAT, chat("hi", max_tokens=2, **more))[0] == 200
        return OPENED[-1].constraints[-1]

    assert constraint() is None and constraint(response_format={"type": "text"}) is None
    assert constraint(tools=TOOLS) is None
    assert "get_weather" in constraint(tools=TOOLS, tool_choice="required")
    named = constraint(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_time"}})
    assert "get_time" in named and "get_weather" not in named
    assert constraint(response_format={"type": "json_object"})
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
    assert "city" in constraint(response_format=wanted)
    assert roomy.post(COMPLETIONS, {"prompt": "a", "response_format": wanted, "max_tokens": 1})[0] == 200
    assert "city" in OPENED[-1].constraints[-1]


WRONG = {
    "a format that there is not": ({"response_format": {"type": "xml"}}, "response_format"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format"),
    "a schema that is none": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "thing"}}}},
        "response_format",
    ),
    "a format beside tools": ({"response_format": {"type": "json_object"}, "tools": TOOLS}, "response_format"),
    "a format and beams": ({"response_format": {"type": "json_object"}, "num_beams": 2}, "response_format"),
    "tools that are none": ({"tools": ["x"]}, "tools"),
    "a tool without a name": ({"tools": [{"type": "function", "function": {}}]}, "tools"),
    "two tools of one name": ({"tools": [TIME, TIME]}, "tools"),
    "a choice that there is not": ({"tools": TOOLS, "tool_choice": "some"}, "tool_choice"),
    "a tool that was not given": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_held_is_refused(roomy, name):
    body, param = WRONG[name]
    status, found = roomy.post(CHAT, chat("hi", **body))
    assert (status, found["error"]["param"]) == (400, param), found


def test_20_a_big_schema_freezes_nobody(roomy):
    """Deep, wide and large ones are answered, with 400 where they are too much; the server goes on."""
    deep = {"type": "string"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"x": deep}}
    wide = {"type": "object", "properties": {f"name_{i}": {"type": "string", "maxLength": 1000} for i in range(3000)}}
    for schema in (deep, wide):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        status, found = roomy.post(CHAT, chat("hi", response_format=wanted))
        assert status == 400 and found["error"]["code"] == "invalid_schema", found
    assert roomy.post(CHAT, chat("say:a"))[0] == 200


CHATGLM3 = {
    "get_weather\n ```python\ntool_call(city='北京')\n```": (None, [("get_weather", '{"city": "北京"}')]),
    "好。<|assistant|>get_time\n ```python\ntool_call()\n```": ("好。", [("get_time", "{}")]),
    "get_weather\n ```python\ntool_call(broken": (None, [("get_weather", "```python\ntool_call(broken")]),
    "没有工具。": ("没有工具。", []),
}


@pytest.mark.parametrize("text", CHATGLM3)
def test_chatglm3_writes_python_and_clients_read_json(text):
    content, calls = CHATGLM3[text]
    body = chat(f"say:{text}", tools=TOOLS, max_tokens=200)
    with live(kind="chatglm3-tiny", columns=2048) as server:
        [choice] = server.post(CHAT, body)[1]["choices"]
        message = choice["message"]
        found = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        assert (message["content"], found) == (content, calls)
        assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
        assert joined(server.chunks(CHAT, body)) == (content, calls, choice["finish_reason"])


def test_chatglm2_calls_no_tools():
    with live(kind="chatglm2-tiny") as server:
        status, found = server.post(CHAT, chat("say:好", tools=TOOLS))
        assert status == 400 and found["error"]["param"] == "tools"
        [choice] = server.post(CHAT, chat("say:好,的"))[1]["choices"]
        assert choice["message"]["content"] == "好,的\n\n答："  # what stands behind it in the round

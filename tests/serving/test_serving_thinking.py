"""Thoughts and calls between tags over HTTP: streamed as whole, counted, switched by requests, and OpenAI's package."""

import json

import pytest
from live_server import chat, live
from simulated_core import OPENED

CHAT = "/v1/chat/completions"
PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}},
    {"type": "function", "function": {"name": "now"}},
]
CALL = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n<arg_key>days</arg_key>\n"
CALL += "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>"
ARGUMENTS = [("get_weather", {"city": "12", "days": 3}), ("now", {})]
# What the model writes behind a prompt that opened no thoughts → content, thoughts, calls.
ANSWERS = {
    f"<think>想一\n想</think>\n查。\n{CALL}": ("查。", "想一\n想", ARGUMENTS),
    f"<think></think>\n{CALL}": (None, None, ARGUMENTS),
    "<think>只是想": ("", "只是想", []),
    "<think>想</think>好<b>": ("好<b>", "想", []),
    "<think>想</think><tool_call>nobody</tool_call>": ("<tool_call>nobody</tool_call>", "想", []),
    "好": ("好", None, []),
}


@pytest.fixture(scope="module")
def older():
    with live(kind="glm45-tiny", columns=2048) as found:
        yield found


@pytest.fixture(scope="module")
def newer():
    with live(kind="glm47-tiny", columns=2048) as found:
        yield found


def calls_of(calls) -> list[tuple[str, dict]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def joined(chunks) -> tuple[dict, str | None, dict | None]:
    """The message that a stream adds up to, why it ended, and the usage."""
    message, reason, usage = {"content": "", "reasoning_content": "", "reasoning": "", "tool_calls": []}, None, None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            delta, reason = choice["delta"], choice["finish_reason"] or reason
            for name in ("content", "reasoning_content", "reasoning"):
                message[name] += delta.get(name) or ""
            for part in delta.get("tool_calls", ()):
                if "id" in part:
                    message["tool_calls"].append({"function": {"name": part["function"]["name"], "arguments": ""}})
                message["tool_calls"][part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return message, reason, usage


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("opened", [False, True])
def test_whole_and_streamed(older, newer, text, opened):
    """GLM-4.7's prompt opens the thoughts, so that its answers begin inside."""
    content, thoughts, calls = ANSWERS[text]
    if opened and not text.startswith("<think>"):
        pytest.skip("such an answer is all thoughts")
    server = newer if opened else older
    body = chat(f"say:{text.removeprefix('<think>') if opened else text}", tools=TOOLS, max_tokens=300)
    status, found = server.post(CHAT, body)
    assert status == 200
    [choice] = found["choices"]
    message = choice["message"]
    assert (message["content"], message.get("reasoning_content")) == (content, thoughts)
    assert message.get("reasoning") == thoughts
    assert calls_of(message.get("tool_calls", [])) == calls
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    streamed, reason, usage = joined(server.chunks(CHAT, body | {"stream_options": {"include_usage": True}}))
    assert (streamed["content"] or None, streamed["reasoning_content"] or None) == (content or None, thoughts)
    assert streamed["reasoning"] == streamed["reasoning_content"]
    assert [call["function"] for call in streamed["tool_calls"]] == [
        call["function"] for call in message.get("tool_calls", [])
    ]
    assert reason == choice["finish_reason"] and usage == found["usage"]
    ids = server.post("/tokenize", {"prompt": thoughts or "", "add_special_tokens": False})[1]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": ids["count"]}


@pytest.mark.parametrize("length", range(1, 12))
def test_an_answer_that_ends_inside_thoughts(older, length):
    body = chat("say:<think>一二三四五六七八九</think>好", max_tokens=length)
    whole = older.post(CHAT, body)[1]
    message = whole["choices"][0]["message"]
    thoughts = message.get("reasoning_content", "")
    assert message["content"] == "" and "一二三四五六七八九".startswith(thoughts.rstrip("\ufffd"))
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == length - 1
    streamed, reason, _ = joined(older.chunks(CHAT, body))
    assert (streamed["reasoning_content"], streamed["content"], reason) == (thoughts, "", "length")


def test_a_stop_string_inside_thoughts(older):
    body = chat("say:<think>一二三四</think>好", stop=["三"])
    [choice] = older.post(CHAT, body)[1]["choices"]
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("一二", "")
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == "三"
    assert joined(older.chunks(CHAT, body))[0]["reasoning_content"] == "一二"


def asked(server, **more) -> str:
    """The prompt of a request."""
    body = chat("say:好", return_token_ids=True, **more)
    status, found = server.post(CHAT, body)
    assert status == 200, found
    return server.post("/detokenize", {"tokens": found["choices"][0]["prompt_token_ids"]})[1]["prompt"]


def test_requests_switch_thinking(older, newer):
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert asked(older).endswith("<|assistant|>") and asked(newer).endswith("<|assistant|><think>")
    for more in (off, {"thinking": {"type": "disabled"}}):
        assert asked(older, **more).endswith("/nothink<|assistant|>\n<think></think>")
        assert asked(newer, **more).endswith("好<|assistant|></think>")
    assert asked(newer, **off, thinking={"type": "enabled"}).endswith("</think>")  # the more precise one counts
    [choice] = newer.post(CHAT, chat("say:好", **off))[1]["choices"]
    assert choice["message"]["content"] == "好" and "reasoning_content" not in choice["message"]


def test_earlier_thoughts_are_kept_where_that_is_asked(newer):
    messages = [
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": "答", "reasoning_content": "旧的"},
        {"role": "user", "content": "say:好"},
    ]
    assert "旧的" not in asked(newer, messages=messages)
    assert "<think>旧的</think>答" in asked(newer, messages=messages, thinking={"clear_thinking": False})
    alias = [messages[0], {"role": "assistant", "content": "答", "reasoning": "旧的"}, messages[2]]
    assert "旧的" in asked(newer, messages=alias, chat_template_kwargs={"clear_thinking": False})


def test_what_a_template_does_not_read_is_refused(older, newer):
    for server, more, problem in (
        (older, {"chat_template_kwargs": {"clear_thinking": False}}, "no variable 'clear_thinking'; it reads enable_"),
        (newer, {"chat_template_kwargs": {"messages": []}}, "no variable 'messages'"),
        (newer, {"chat_template_kwargs": {"enable_thinking": "no"}}, "must be true or false"),
        (newer, {"thinking": {"type": "perhaps"}}, "must be enabled or disabled"),
    ):
        status, body = server.post(CHAT, chat("say:好", **more))
        assert status == 400 and problem in body["error"]["message"], body


def test_a_server_may_leave_thinking_out(newer):
    newer.service.model.processor.set_thinking(False)
    try:
        assert asked(newer).endswith("</think>")
        assert asked(newer, chat_template_kwargs={"enable_thinking": True}).endswith("<think>")
        assert newer.get("/page.json")[1]["thinking"] is False
    finally:
        newer.service.model.processor.set_thinking(True)
    assert newer.get("/page.json")[1]["thinking"] is True
    with live(kind="glm4-0414-tiny") as plain:
        assert plain.get("/page.json")[1]["thinking"] is None
        assert "completion_tokens_details" not in plain.post(CHAT, chat("say:好"))[1]["usage"]


def test_forced_calls_are_held_to_tags(older, newer):
    for server, first in ((older, "own_thoughts? LINE?"), (newer, "thoughts LINE?")):
        for more in ({"tool_choice": "required"}, {"tool_choice": {"type": "function", "function": {"name": "now"}}}):
            assert server.post(CHAT, chat(f"say:{CALL}", tools=TOOLS, **more))[0] == 200
            pieces = server.service.model.tokenizer.vocab_size
            cores = [core for core in OPENED if core.tokenizer.kind == "glm45" and core.tokenizer.vocab_size == pieces]
            held = cores[-1].constraints[-1]
            assert held.startswith(f'start: {first} "<tool_call>"') and '"now" LINE?' in held
    odd = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "minimum": 3}}}
    status, body = older.post(CHAT, chat("say:a", tools=[odd], tool_choice="required"))
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "invalid_schema", "tools")


def test_calls_and_results_go_back(newer):
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "北", "days": 1}'},
    }
    messages = [
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "content": None, "reasoning_content": "查", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "say:晴"}]},
    ]
    prompt = asked(newer, messages=messages, tools=TOOLS)
    assert prompt.endswith(
        "<|assistant|><think>查</think><tool_call>get_weather<arg_key>city</arg_key><arg_value>北</arg_value>"
        "<arg_key>days</arg_key><arg_value>1</arg_value></tool_call><|observation|><tool_response>say:晴"
        "</tool_response><|assistant|><think>"
    )
    assert "# Tools" in prompt and '"name": "get_weather"' in prompt


def test_the_openai_package(older):
    openai = pytest.importorskip("openai", reason="requirements-test.txt is not installed")
    text = f"say:<think>想</think>\n查。\n{CALL}"
    request = {"model": "tiny", "messages": [{"role": "user", "content": text}], "tools": TOOLS, "max_tokens": 300}
    extra = {"chat_template_kwargs": {"enable_thinking": True}}
    with openai.OpenAI(base_url=f"{older.url}/v1", api_key="none", max_retries=0) as client:
        found = client.chat.completions.create(**request, extra_body=extra)
        stream = client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}, extra_body=extra
        )
        chunks = list(stream)
    message = found.choices[0].message
    assert (message.content, message.reasoning_content, message.reasoning) == ("查。", "想", "想")
    assert [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls] == ARGUMENTS
    assert found.usage.completion_tokens_details.reasoning_tokens > 0
    assert chunks[-1].usage == found.usage
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "想"
    parts = [part for delta in deltas for part in delta.tool_calls or ()]
    assert {part.id for part in parts if part.id} and "".join(
        part.function.arguments or "" for part in parts if part.index == 0
    ) == message.tool_calls[0].function.arguments

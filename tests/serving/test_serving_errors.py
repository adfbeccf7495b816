"""What is wrong with a request is said in OpenAI's form, whatever it is; never a traceback, never a hang."""

import json
import logging
import random
import socket
import threading
import time

import pytest
from live_server import MODEL, chat, live, wait_until

from glm.serving import protocol, routes
from glm.serving.service import Settings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def assert_error(answer, status: int, code: str | None = None, param: str | None = None, words: str = ""):
    found, body = answer
    assert found == status, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"} and isinstance(error["message"], str)
    assert "Traceback" not in error["message"] and "\n" not in error["message"]
    assert (error["param"], words in error["message"]) == (param, True), error
    if code is not None:
        assert error["code"] == code


WRONG = {
    "no messages": ({}, "messages"),
    "messages of another type": ({"messages": "hi"}, "messages"),
    "no message": ({"messages": []}, "messages"),
    "a message that is none": ({"messages": [3]}, "messages"),
    "an unknown role": ({"messages": [{"role": "chef", "content": "x"}]}, "messages"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    "an answer last": ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
    "temperature as text": (chat(temperature="hot"), "temperature"),
    "temperature below 0": (chat(temperature=-0.1), "temperature"),
    "a temperature beyond all floats": (chat(temperature=10**400), "temperature"),
    "temperature as true": (chat(temperature=True), "temperature"),
    "top_p above 1": (chat(top_p=1.1), "top_p"),
    "no tokens": (chat(max_tokens=0), "max_tokens"),
    "half a token": (chat(max_tokens=1.5), "max_tokens"),
    "n of 0": (chat(n=0), "n"),
    "n above the server's": (chat(n=9), "n"),
    "best_of another number": (chat(n=1, best_of=2), "best_of"),
    "an empty stop string": (chat(stop=""), "stop"),
    "too many stop strings": (chat(stop=["a"] * 17), "stop"),
    "stop of numbers": (chat(stop=[1]), "stop"),
    "stream as text": (chat(stream="yes"), "stream"),
    "stream_options without stream": (chat(stream_options={"include_usage": True}), "stream_options"),
    "top_logprobs without logprobs": (chat(top_logprobs=2), "top_logprobs"),
    "too many top_logprobs": (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    "logprobs as a number": (chat(logprobs=1), "logprobs"),
    "a bias of no token": (chat(logit_bias={"x": 1}), "logit_bias"),
    "a bias of an empty key": (chat(logit_bias={"": 1}), "logit_bias"),
    "a bias beyond the vocabulary": (chat(logit_bias={"99999": 1}), "logit_bias"),
    "too strong a bias": (chat(logit_bias={"1": 101}), "logit_bias"),
    "penalty of 3": (chat(presence_penalty=3), "presence_penalty"),
    "a seed beyond 64 bits": (chat(seed=1 << 63), "seed"),
    "too few tokens for min_tokens": (chat(min_tokens=5, max_tokens=4), "min_tokens"),
    "speech": (chat(modalities=["text", "audio"]), "modalities"),
    "old functions": (chat(functions=[{"name": "f"}]), "functions"),
    "guided_json": (chat(guided_json={}), "guided_json"),
    "a template": (chat(chat_template="{{ x }}"), "chat_template"),
    "beams of several texts": (chat(num_beams=2, n=2), "n"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named(server, name):
    body, param = WRONG[name]
    assert_error(server.post(CHAT, body), 400, param=param)


WRONG_COMPLETIONS = {
    "no prompt": ({}, "prompt"),
    "no prompts": ({"prompt": []}, "prompt"),
    "a prompt without tokens": ({"prompt": [[]]}, "prompt"),
    "a token beyond the vocabulary": ({"prompt": [1, 99999]}, "prompt"),
    "a token below 0": ({"prompt": [-1]}, "prompt"),
    "a token as true": ({"prompt": [True]}, "prompt"),
    "texts and numbers": ({"prompt": ["a", 1]}, "prompt"),
    "too many tokens": ({"prompt": [5] * ((1 << 20) + 1)}, "prompt"),
    "too many prompts": ({"prompt": ["a"] * 257}, "prompt"),
    "logprobs as true": ({"prompt": "a", "logprobs": True}, "logprobs"),
    "no tokens without echo": ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    "suffix": ({"prompt": "a", "suffix": "b"}, "suffix"),
}


@pytest.mark.parametrize("name", WRONG_COMPLETIONS)
def test_a_wrong_field_of_completions_is_named(server, name):
    body, param = WRONG_COMPLETIONS[name]
    assert_error(server.post(COMPLETIONS, body), 400, param=param)


def test_too_long_a_prompt_has_both_numbers(server):
    answer = server.post(CHAT, chat("好" * 600))
    assert_error(answer, 400, "context_length_exceeded", "max_tokens", "and the model holds 128 together")
    answer = server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 128})
    assert_error(answer, 400, "context_length_exceeded", "max_tokens", "the answer may have 128")


def test_a_long_prompt_is_cut_where_that_is_asked_for(server):
    status, found = server.post(COMPLETIONS, {"prompt": "x" * 600 + "say: ab", "truncate_prompt_tokens": 20})
    assert (status, found["usage"]["prompt_tokens"], found["choices"][0]["text"]) == (200, 20, "ab")


@pytest.mark.parametrize("truncate", [-1, 127, 4096])
def test_a_prompt_that_is_cut_leaves_room_for_its_answer(server, truncate):
    """Of 128 tokens, whatever is asked for; a chat gives up its oldest turns."""
    cut = {"truncate_prompt_tokens": truncate, "max_tokens": 40}
    status, found = server.post(COMPLETIONS, {"prompt": "x" * 600 + "say: ab"} | cut)
    assert (status, found["usage"]["prompt_tokens"], found["choices"][0]["text"]) == (200, 88, "ab")
    old = [{"role": role, "content": "x" * 70} for role in ("user", "assistant")]
    status, found = server.post(CHAT, {"messages": [*old, {"role": "user", "content": "say: ab"}]} | cut)
    assert (status, found["choices"][0]["message"]["content"]) == (200, "ab")
    answer = server.post(COMPLETIONS, {"prompt": "x" * 600} | cut | {"max_tokens": 128})
    said = "the answer may have 128 tokens, and the model holds 128 with the prompt: lower max_tokens"
    assert_error(answer, 400, "context_length_exceeded", "max_tokens", said)


def test_routes_that_there_are_not(server):
    assert_error(server.get("/v1/nothing"), 404, "not_found")
    assert_error(server.post("/v1/embeddings", {}), 404, "not_found")
    assert_error(server.get(CHAT), 405, "method_not_allowed")
    assert_error(server.post("/health", {}), 405, "method_not_allowed")
    assert_error(server.get("/v1/models/none"), 404, "model_not_found", "model")
    assert server.send("GET", "/static/none.js")[0] == 404


def test_bodies_that_are_no_object(server):
    deep = b"[" * 100_000 + b"]" * 100_000
    for body in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"messages": NaN}', b'{"n": ' + b"9" * 5000 + b"}", deep):
        for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize"):
            assert_error(server.post(path, body), 400, "invalid_json")


def test_deep_json_where_a_message_belongs(server):
    """It is read, and then there is no place for it."""
    deep = {"role": "user", "content": "x"}
    for _ in range(400):
        deep = {"x": deep}
    assert_error(server.post(CHAT, {"messages": [deep]}), 400, param="messages")
    tools = [{"type": "function", "function": {"name": "f", "parameters": deep}}]
    assert server.post(CHAT, chat(tools=tools))[0] in (200, 400)


def test_random_bytes_and_values_break_nothing(server):
    draw = random.Random(1)
    values = [None, True, 0, -1, 1e308, "", "x", [], {}, [[]], {"a": {}}, ["\ud800"], 1 << 70, "\x00"]
    names = [
        "messages",
        "prompt",
        "n",
        "stop",
        "logit_bias",
        "stream",
        "max_tokens",
        "tools",
        "seed",
        "response_format",
    ]
    for _ in range(8):
        body = {name: draw.choice(values) for name in draw.sample(names, 3)} | {"max_tokens": 2}
        for path in (CHAT, COMPLETIONS, "/tokenize", "/detokenize"):
            status, _, raw = server.send("POST", path, body)
            assert status in (200, 400) and raw
        assert server.send("POST", CHAT, draw.randbytes(200))[0] == 400
    assert server.get("/health")[0] == 200


def test_bytes_that_are_no_http(server):
    for raw in (b"\x00" * 50, b"GET\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as found:
            found.sendall(raw)
            assert b"400" in found.recv(1000)


def test_requests_that_are_never_finished(server):
    """Half a head, half a body, a head without end: who sends them gets nothing, and nothing of them stays."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for raw in (head, head + "Content-Length: 100\r\n\r\n{", head + "Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as found:
                found.sendall(raw.encode())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as found:
        found.sendall(b"GET /health HTTP/1.1\r\nX: " + b"a" * 200_000)
        assert b" 400 " in found.recv(1000)
    assert server.get("/health")[0] == 200
    wait_until(lambda: server.service.engine.open_texts == 0)


def test_lone_surrogates_come_and_go_as_json(server):
    status, found = server.post(COMPLETIONS, b'{"prompt": "a\\ud83d", "echo": true, "max_tokens": 1}')
    assert status == 200 and found["choices"][0]["text"].startswith("a\ud83d")


def test_a_body_that_is_no_json_by_its_type(server):
    """A web page may post such to this machine without being asked."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        status, _, raw = server.send("POST", CHAT, chat(), headers={"Content-Type": kind})
        assert_error((status, json.loads(raw)), 415)


def test_a_body_may_be_so_large():
    with live(settings=Settings(max_body=1000, body_seconds=0.3)) as server:
        assert_error(server.post(CHAT, b" " * 1001), 413, "body_too_large")
        head = "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as found:  # its length is not told
            found.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"3e8\r\n" + b" " * 1000 + b"\r\n")
            found.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
            assert b" 413 " in found.recv(1000)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as found:  # it never ends
            found.sendall(f"{head}Content-Length: 10\r\n\r\n".encode() + b"{")
            assert b" 408 " in found.recv(1000)
        assert server.post(CHAT, chat("say: a"))[0] == 200


def test_keys():
    with live(settings=Settings(keys=("one", "two"))) as server:
        for headers in (
            {},
            {"Authorization": "Bearer three"},
            {"Authorization": "one"},
            {"Authorization": "Basic one"},
        ):
            status, found, raw = server.send("POST", CHAT, chat(), headers=headers)
            assert_error((status, json.loads(raw)), 401, "invalid_api_key")
            assert found["www-authenticate"] == "Bearer"
            assert server.send("GET", "/v1/models", headers=headers)[0] == 401
            assert server.send("GET", "/metrics", headers=headers)[0] == 401
        for key in ("one", "two"):
            assert server.post(CHAT, chat("say: a"), headers={"Authorization": f"Bearer {key}"})[0] == 200
        assert [server.send("GET", path)[0] for path in ("/", "/health", "/ready", "/static/css/page.css")] == [200] * 4


def test_an_empty_key_is_none_where_none_is_needed(server):
    """lm-evaluation-harness sends one."""
    assert server.post(CHAT, chat("say: a"), headers={"Authorization": "Bearer "})[0] == 200


def test_a_full_queue():
    with live(rows=1, max_queue=1, seconds=0.01) as server:
        streams = [server.open_stream(CHAT, chat("say: endless", stream=True)) for _ in range(2)]
        wait_until(lambda: server.service.engine.open_texts == 2)
        status, headers, raw = server.send("POST", CHAT, chat())
        assert_error((status, json.loads(raw)), 429, "queue_full", words="1 texts wait already")
        assert headers["retry-after"] == "1"
        assert_error(server.post(CHAT, chat(n=3)), 400, words="3 texts")  # it would never fit
        for each in streams:
            each.close()
        wait_until(lambda: server.service.engine.open_texts == 0)
        assert server.post(CHAT, chat("say: a"))[0] == 200


def test_one_that_fails_fails_alone(server):
    assert_error(server.post(CHAT, chat("say: nan")), 500, "generation_failed", words="became nan")
    events = server.events(CHAT, chat("say: nan"))
    assert json.loads(events[-2])["error"]["code"] == "generation_failed" and events[-1] == "[DONE]"
    assert server.send("POST", CHAT, chat("say: nan"))[1]["x-should-retry"] == "false"
    assert server.post(CHAT, chat("say: a"))[0] == 200


def test_the_log_has_a_line_a_request_and_no_text(server, caplog):
    caplog.set_level(logging.INFO, logger="glm.serving")
    server.post(CHAT, chat("say: secret"))
    server.events(CHAT, chat("say: secret"))
    server.post(CHAT, chat("secret", temperature="secret"))
    server.post(CHAT, b'{"messages": "secret')
    wait_until(lambda: sum(record.getMessage().endswith("400") for record in caplog.records) == 2)
    lines = [record.getMessage() for record in caplog.records]
    assert "secret" not in " ".join(lines)
    assert any(line.startswith("chatcmpl-") and " 200 stop prompt=" in line and " total=" in line for line in lines)
    assert sum(line.endswith("400") for line in lines) == 2


def test_an_unexpected_error_says_nothing_of_itself(server, monkeypatch, caplog):
    def broken(request, tools):
        raise ValueError(request.messages[0]["content"])

    monkeypatch.setattr(server.service.model, "chat_prompt", broken)
    assert_error(server.post(CHAT, chat("secret")), 500, "internal_error")
    assert "ValueError" in caplog.text and "in broken" in caplog.text and "secret" not in caplog.text


def test_unknown_fields_are_taken(server):
    assert server.post(CHAT, chat("say: a", anything=1, user="me", metadata={}, store=True))[0] == 200


def test_null_is_not_given(server):
    nothing = dict.fromkeys(["temperature", "stop", "n", "tools", "stream_options", "seed", "audio", "functions"])
    assert server.post(CHAT, chat("say: a", **nothing))[0] == 200


def test_tokens_and_back(server):
    tokenizer = server.service.model.tokenizer
    _, found = server.post("/tokenize", {"prompt": "你好", "add_special_tokens": False})
    assert found == {"tokens": tokenizer.text_ids("你好"), "count": len(found["tokens"]), "max_model_len": 128}
    assert server.post("/detokenize", {"tokens": found["tokens"]})[1] == {"prompt": "你好"}
    info = server.get("/tokenizer_info")[1]
    end = server.post("/tokenize", {"prompt": info["eos_token"], "add_special_tokens": False})[1]["tokens"]
    assert end == [tokenizer.eos_token_id] and info["chat_template"]
    asked = server.post("/tokenize", {"messages": [{"role": "user", "content": "hi"}]})[1]
    assert asked["tokens"] == list(server.service.model.processor.text_prompt("hi"))
    assert_error(server.post("/tokenize", {}), 400, param="prompt")
    assert_error(server.post("/detokenize", {"tokens": ["a"]}), 400, param="tokens")


def test_long_lists_are_read_beside_the_event_loop(server, monkeypatch):
    """Streams would stand still while a body full of ids is checked."""
    readers = []

    def noted(name, value):
        readers.append(threading.current_thread())
        return value

    monkeypatch.setattr(protocol, "_id", noted)
    monkeypatch.setitem(routes._DETOKENIZE, "tokens", noted)
    assert server.post(COMPLETIONS, {"prompt": [5, 6]})[0] == 200
    assert server.post("/detokenize", {"tokens": [5, 6]})[0] == 200
    assert len(readers) == 3 and server._thread not in readers


def test_a_text_with_the_prefix_has_it_once(server):
    bare, framed = (server.post("/tokenize", {"prompt": text})[1]["tokens"] for text in ("hi", "[gMASK]<sop>hi"))
    assert bare == framed


def test_the_page_and_its_policy(server):
    status, headers, raw = server.send("GET", "/")
    assert status == 200 and "/static/js/main.js" in raw.decode() and headers["content-type"].startswith("text/html")
    assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' data:")


def test_metrics_have_vllms_names(server):
    server.post(CHAT, chat("say: a"))
    text = server.send("GET", "/metrics")[2].decode()
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
        "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total", "iteration_tokens_total_count",
        "time_to_first_token_seconds_count", "inter_token_latency_seconds_count", "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count", "request_prefill_time_seconds_count",
        "spec_decode_num_drafts_total", "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total",
    ):  # fmt: skip
        assert f'glm:{name}{{model_name="{MODEL}"}}' in text, name
    assert 'glm:request_success_total{finished_reason="stop",model_name="tiny"}' in text


def test_health_has_no_opinion_of_its_own():
    with live(settings=Settings(heartbeat_seconds=0.4), seconds=1.0) as server:
        assert server.get("/health") == (200, {"status": "ok"})
        with server.open_stream(CHAT, chat("say: endless", stream=True)):
            time.sleep(0.6)
            assert_error(server.get("/health"), 503, "engine_silent")
            assert_error(server.get("/ready"), 503, "engine_silent")


def test_version(server):
    assert set(server.get("/version")[1]) == {"version"}


def test_glm_2021_completes_and_does_not_converse():
    """It reads prompts in both directions, so their tokens have no probabilities; what it writes has."""
    with live(kind="glm-tiny-chinese") as server:
        assert_error(server.post(CHAT, chat()), 400, "unsupported_parameter", "messages", "use /v1/completions")
        body = {"prompt": "答案：9层，上下文：祥信塔共有9层。[gMASK]", "max_tokens": 4, "logprobs": 1}
        status, found = server.post(COMPLETIONS, body)
        assert status == 200 and len(found["choices"][0]["logprobs"]["tokens"]) == found["usage"]["completion_tokens"]
        assert_error(server.post(COMPLETIONS, body | {"echo": True}), 400, "unsupported_parameter", "echo")
        assert server.post(COMPLETIONS, {"prompt": "塔", "echo": True})[1]["choices"][0]["text"].startswith("塔")
        assert_error(server.post(COMPLETIONS, {"prompt": [5, 6, 7]}), 400, param="prompt", words="has no mask token")
        assert_error(server.post("/tokenize", {"messages": [{}]}), 400, param="messages")


def test_chatglm_converses_and_calls_no_tools():
    with live(kind="chatglm-tiny") as server:
        status, found = server.post(CHAT, chat("say: 你好,世界"))
        assert status == 200 and found["choices"][0]["message"]["content"] == "你好，世界"  # its own clean-up
        chunks = server.chunks(CHAT, chat("say: 你好,世界"))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "你好，世界"
        tools = [{"type": "function", "function": {"name": "f"}}]
        assert_error(server.post(CHAT, chat(tools=tools)), 400, "unsupported_parameter", "tools")
        assert_error(server.post(CHAT, {"messages": [{"role": "system", "content": "x"}]}), 400, param="messages")

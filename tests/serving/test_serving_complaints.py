"""What users of other servers complain of, each by its number in this project's list of 26 such complaints.

What the engine answers for, what needs a model and what is of tools is tested elsewhere: `ELSEWHERE`.
"""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_server import MODEL, chat, live, read_some, wait_until
from simulated_core import CONTEXT, OPENED

from glm.serving.choices import ChoiceText
from glm.serving.engine_client import Mailbox
from glm.serving.jobs import Finish, Update
from glm.serving.protocol import Request, Sampling
from glm.serving.service import Settings

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TESTS = Path(__file__).resolve().parents[1]
# Number → file and beginning of the test's name.
ELSEWHERE = {
    3: ("engine/test_engine_bounds.py", "test_an_interrupted_part_is_not_read_and_fails_nobody"),
    4: ("serving/test_served_export.py", "test_04"),
    5: ("engine/test_engine_bounds.py", "test_a_text_stands_still_for_one_part_and_one_step_at_most"),
    6: ("engine/test_engine_bounds.py", "test_a_text_stands_still_for_one_part_and_one_step_at_most"),
    7: ("engine/test_engine_bounds.py", "test_a_long_prompt_is_not_passed_over_for_ever"),
    14: ("serving/test_engine_process.py", "test_14"),
    15: ("serving/test_soak.py", "test_15"),
    17: ("serving/test_served_export.py", "test_17"),
    19: ("serving/test_serving_tools.py", "test_19"),
    20: ("serving/test_serving_tools.py", "test_20"),
    26: ("engine/test_prompt_lookup.py", "test_where_it_is_no_gain_it_is_off"),
}


@pytest.mark.parametrize("number", range(1, 27))
def test_every_complaint_has_a_test(number):
    file, name = ELSEWHERE.get(number, (Path(__file__).relative_to(TESTS), f"test_{number:02}_"))
    assert f"\ndef {name}" in (TESTS / file).read_text("utf-8")


@pytest.mark.parametrize("streams", [True, False])
def test_01_a_client_that_left_frees_its_row_within_a_step(streams):
    """Streaming or waiting: the engine's gauge is 0 after the step that was under way."""
    with live(seconds=0.2) as server:
        stream = server.open_stream(CHAT, chat("say: endless", stream=streams))
        wait_until(lambda: server.running == 1)
        stream.close()
        wait_until(lambda: server.running == 0, 12)  # its text would take 24 seconds
        assert server.service.engine.open_texts == 0


def test_02_a_cancelled_text_ends_no_other(slow):
    with ThreadPoolExecutor() as pool:
        other = pool.submit(slow.post, CHAT, chat("say: " + "word " * 6))
        for _ in range(3):
            stream = slow.open_stream(CHAT, chat("say: endless", stream=True))
            read_some(stream)
            stream.close()
        status, found = other.result()
    assert status == 200 and found["choices"][0]["message"]["content"] == ("word " * 6).strip()


def test_03_who_leaves_ends_the_reading_of_their_prompt():
    """Inside a call of the runtime, which would take a minute."""
    with live(seconds=60) as server:
        stream = server.open_stream(CHAT, chat("say: endless", stream=True))
        wait_until(lambda: OPENED[-1].steps == 1)
        stream.close()
        wait_until(lambda: OPENED[-1].idle and server.running == 0)


@pytest.mark.parametrize("text", ["😀👩‍👩‍👧", "好吗", "a😀b\n", "\u0301é", "𝄞"])
def test_08_no_half_characters(server, text):
    chunks = server.chunks(COMPLETIONS, {"prompt": f"say: {text}", "max_tokens": 60})
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces).strip() == text.strip() and not any("\ufffd" in piece for piece in pieces)


def test_09_a_stream_is_the_answer_wherever_it_is_cut(server):
    """Also where max_tokens cuts through a character, in both endpoints."""
    for limit in (1, 2, 4, 7, 10, 13):
        body = chat("say: 好😀a👩‍👧é  \n", max_tokens=limit)
        whole = server.post(CHAT, body)[1]["choices"][0]["message"]["content"]
        chunks = server.chunks(CHAT, body)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
        body = {"prompt": "say: 好😀a👩‍👧é  \n", "max_tokens": limit}
        whole = server.post(COMPLETIONS, body)[1]["choices"][0]["text"]
        assert "".join(chunk["choices"][0]["text"] for chunk in server.chunks(COMPLETIONS, body)) == whole


@pytest.mark.parametrize("stop", ["def", "cd", "g", "efgh", "好b"])
def test_10_no_part_of_a_stop_string_is_seen(server, stop):
    text = "abcdefgh好bcd"
    chunks = server.chunks(COMPLETIONS, {"prompt": f"say: {text}", "stop": [stop, "zzz"], "max_tokens": 30})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text[: text.index(stop)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_11_only_what_may_be_a_stop_string_waits(server):
    """The first piece comes with the first token, though a stop string is long."""
    model = server.service.model
    text = ChoiceText(model, Request(Sampling()), ["x" * 100 + "abc"])
    pieces = [text.take(Update([token])).text for token in model.tokenizer.text_ids("abcxx")]
    assert pieces == [*"abc", "", ""] and text.take(Update(finish=Finish("length"))).text == "xx"


def test_12_usage_is_sent_when_asked_for_and_not_else(server):
    plain = server.chunks(CHAT, chat("say: ab"))
    assert all("usage" not in chunk and chunk["choices"] for chunk in plain)
    asked = server.chunks(CHAT, chat("say: ab", stream_options={"include_usage": True}))
    assert asked[-1]["choices"] == [] and asked[-1]["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in asked[:-1])
    options = {"include_usage": True, "continuous_usage_stats": True}
    running = server.chunks(CHAT, chat("say: ab", stream_options=options))
    counts = [chunk["usage"]["completion_tokens"] for chunk in running[1:]]
    assert counts == sorted(counts) and counts[-1] == 3


def test_13_an_answer_may_be_as_long_as_the_context(server):
    found = server.post(CHAT, chat("say: endless"))[1]
    assert found["usage"]["total_tokens"] == CONTEXT and found["choices"][0]["finish_reason"] == "length"
    assert server.post(COMPLETIONS, {"prompt": "say: endless"})[1]["usage"]["completion_tokens"] == 16


def test_14_two_hundred_clients_on_eight_rows_are_all_answered():
    with live() as server, ThreadPoolExecutor(200) as pool:
        texts = [f"text {number} " + "好" * (number % 7) for number in range(200)]
        answers = list(pool.map(lambda text: server.post(CHAT, chat(f"say: {text}"), timeout=60), texts))
        assert [found["choices"][0]["message"]["content"] for _, found in answers] == [text.strip() for text in texts]
        assert server.get("/health")[0] == 200 and server.running == 0


def test_16_who_reads_slowly_holds_up_nobody():
    """A client that reads nothing, through the smallest of windows: the others go on, and its text is whole."""
    with live(rows=4) as server:
        stream = server.open_stream(CHAT, chat("say: endless", stream=True, n=2, logprobs=True), window=1024)
        assert server.post(CHAT, chat("say: quick"), timeout=60)[0] == 200
        wait_until(lambda: server.service.engine.open_texts == 0, 60)  # the engine has written all of it
        raw = b""
        while b"[DONE]" not in raw:
            raw += stream.recv(1 << 16)
        assert raw.count(b'"finish_reason":"length"') == 2
        stream.close()


def test_16_what_waits_for_a_slow_reader_is_no_more_than_the_text():
    async def fill() -> dict[int, Update]:
        box = Mailbox(1)
        for token in range(1000):
            box.put(0, Update([token]))
        box.put(0, Update(finish=Finish("stop")))
        return await box.take()

    found = asyncio.run(fill())
    assert found == {0: Update(list(range(1000)), finish=Finish("stop"))}


def test_18_every_text_has_the_whole_context(server):
    assert "8 texts at once, each of 128 tokens with its prompt: key/value cache 1.0 MB" in server.said
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.post(CHAT, chat("say: endless")), range(8)))
    assert [found["usage"]["total_tokens"] for _, found in answers] == [CONTEXT] * 8


def test_21_a_page_of_another_origin_gets_in_with_a_key():
    """The browser's question has no key, and its answer names the header that brings one."""
    asks = {"Origin": "http://page.test", "Access-Control-Request-Method": "POST"}
    asks["Access-Control-Request-Headers"] = "authorization,content-type"
    with live(settings=Settings(keys=("k",), origins=("http://page.test",))) as server:
        status, headers, _ = server.send("OPTIONS", CHAT, headers=asks)
        assert status == 200 and headers["access-control-allow-origin"] == "http://page.test"
        assert "authorization" in headers["access-control-allow-headers"].lower()
        sent = {"Origin": "http://page.test"}
        status, headers, _ = server.send("POST", CHAT, chat(), headers=sent)
        assert status == 401 and headers["access-control-allow-origin"] == "http://page.test"
        status, headers, _ = server.send("POST", CHAT, chat("say: a"), headers=sent | {"Authorization": "Bearer k"})
        assert status == 200 and headers["access-control-allow-origin"] == "http://page.test"
        assert server.send("OPTIONS", CHAT, headers=asks | {"Origin": "http://other.test"})[0] == 400


def test_21_without_the_flag_no_other_origin_gets_in(server):
    status, headers, _ = server.send("POST", CHAT, chat("say: a"), headers={"Origin": "http://page.test"})
    assert status == 200 and "access-control-allow-origin" not in headers


def test_22_texts_are_written_at_once():
    """Eight texts of 20 tokens: together in less than half of the steps that they would take one by one."""
    with live(rows=8, seconds=0.01) as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: server.post(CHAT, chat("say: endless", max_tokens=20)), range(8)))
        assert 20 <= OPENED[-1].steps < 8 * 20 / 2


def test_23_a_failure_in_a_stream_is_no_end_of_it():
    """An event says so; the openai package raises it."""
    with live(seconds=0.02) as server:
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.extend(server.events(CHAT, chat("say: endless"))))
        reader.start()
        wait_until(lambda: server.running == 1)
        server.post(CHAT, chat("say: die"))
        reader.join(10)
        error = json.loads(found[-2])["error"]
        assert error["code"] == "engine_dead" and "a step of the engine failed" in error["message"]
        assert found[-1] == "[DONE]"


def test_24_a_silent_stream_has_comments():
    with live(settings=Settings(ping_seconds=0.05), seconds=0.3) as server:
        raw = server.send("POST", CHAT, chat("say: ab", stream=True))[2].decode()
    assert raw.count(": ping\n\n") >= 2
    for block in raw.split("\n\n")[:-1]:
        assert block == ": ping" or block.startswith("data: ")


def test_25_clients_find_the_models(server):
    status, found = server.get("/v1/models")
    assert status == 200 and found["object"] == "list" and found["data"][0]["id"] == MODEL
    assert {"id", "object", "created", "owned_by", "max_model_len"} <= set(found["data"][0])
    assert found["data"][0]["root"] == MODEL

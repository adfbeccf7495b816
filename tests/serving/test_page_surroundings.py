"""The page in a real Chromium: how one writes, languages, colours and sizes, errors, and models of other kinds."""

import json
import re

import pytest
from browser import bodies, saved, turns
from live_server import live, live_export
from served_process import write_export

from glm.serving.service import Settings

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def server():
    with live(seconds=0.005, columns=2048) as found:
        yield found


# Writing


def test_enter_of_an_input_method_does_not_send(visit, server):
    """The first Enter takes the word that is being spelt; the second one sends."""
    visitor = visit(server)
    visitor.tab.focus("#question")
    tools = visitor.context.new_cdp_session(visitor.tab)
    tools.send("Input.imeSetComposition", {"text": "nihao", "selectionStart": 5, "selectionEnd": 5})
    visitor.run("document.addEventListener('keydown', (event) => (window.composed = event.isComposing), true)")
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    tools.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    tools.send("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    assert visitor.run("window.composed") is True and visitor.asked == []
    tools.send("Input.insertText", {"text": "你好"})
    assert visitor.tab.input_value("#question") == "你好"
    visitor.tab.keyboard.press("Shift+Enter")
    assert visitor.asked == [] and visitor.tab.input_value("#question") == "你好\n"
    visitor.tab.keyboard.press("Enter")
    visitor.tab.wait_for_selector(".assistant .body:not(:empty)")
    assert turns(visitor)[-1] == ("user", "你好\n")


def test_the_view_follows_until_someone_scrolls_up(visit, server):
    visitor = visit(server, height=400)
    visitor.write("say: endless a\n\nb\n\nc\n\nd\n\ne\n\n")
    distance = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
    distance += "(document.querySelector('#scroller'))"
    visitor.until("document.querySelector('#scroller').scrollHeight > 1200")
    assert visitor.run(distance) < 60
    visitor.run("document.querySelector('#scroller').scrollTop = 0")
    visitor.until("document.querySelector('#scroller').scrollHeight > 1600")
    assert visitor.run("document.querySelector('#scroller').scrollTop") == 0
    visitor.tab.click("#to-end")
    assert visitor.run(distance) < 60
    visitor.tab.click("#stop")
    visitor.answer()


# Languages, colours, sizes


def test_the_language_is_the_browsers_at_first(visit, server):
    chinese = visit(server, locale="zh-CN")
    assert chinese.tab.inner_text("#new") == "新对话"
    assert chinese.run("document.documentElement.lang") == "zh-CN"
    chinese.ask("say: 好")
    assert re.search(r"\d+ 词元 · .*秒后开始", chinese.tab.inner_text(".assistant .stats"))
    chinese.tab.select_option("#language", "en")
    assert chinese.tab.inner_text("#new") == "New conversation"
    assert "tokens" in chinese.tab.inner_text(".assistant .stats")
    chinese.tab.reload()
    chinese.tab.wait_for_selector(".assistant")
    assert chinese.tab.inner_text("#new") == "New conversation"
    assert visit(server, locale="fr-FR").tab.inner_text("#new") == "New conversation"


def test_dark_and_light(visit, server):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(22, 24, 29)"
    visitor = visit(server, color_scheme="dark")
    assert visitor.run(ground) == dark and visit(server, color_scheme="light").run(ground) == light
    visitor.tab.select_option("#theme", "light")
    assert visitor.run(ground) == light
    visitor.tab.reload()
    assert visitor.run(ground) == light


WIDE = (
    "say: "
    + "x" * 200
    + "\n\n```\n"
    + "y" * 200
    + "\n```\n\n| "
    + " | ".join(["column"] * 12)
    + " |\n"
    + "|---" * 12
    + "|\n"
)


def test_a_phone_shows_everything_within_360_pixels(visit, server):
    visitor = visit(server, width=360, height=640, has_touch=True, is_mobile=True)
    visitor.ask(WIDE)
    assert visitor.run("document.documentElement.scrollWidth") == 360
    outside = """() => [...document.querySelectorAll('main *')]
        .filter((each) => !each.closest('pre, .wide') && each.checkVisibility())
        .filter((each) => each.getBoundingClientRect().right > 360)
        .map((each) => each.outerHTML)"""
    assert visitor.run(outside) == []
    assert not visitor.tab.is_visible("#new")
    visitor.tab.tap("#open-sidebar")
    visitor.tab.wait_for_selector("#new")
    visitor.tab.tap("#new")
    visitor.tab.wait_for_selector("#new", state="hidden")
    visitor.tab.tap("#open-options")
    visitor.tab.fill("#option-temperature", "0.5")
    visitor.tab.keyboard.press("Escape")
    visitor.tab.wait_for_selector("#options", state="hidden")
    visitor.ask("say: ok")
    assert bodies(visitor)[-1]["temperature"] == 0.5


# Keys and errors


def test_a_server_with_keys(visit):
    with live(columns=512, settings=Settings(keys=("right",))) as server:
        visitor = visit(server)
        visitor.tab.fill("#hint-key", "wrong")
        visitor.write("say: one")
        assert visitor.error == "The API key is missing or wrong: enter it under Options."
        assert visitor.tab.input_value("#question") == "say: one"
        visitor.tab.wait_for_selector("#options")
        visitor.tab.fill("#option-key", "right")
        visitor.tab.click("#try-again")
        visitor.tab.wait_for_selector(".assistant .body:not(:empty)")
        assert visitor.answer() == "one" and visitor.ask("say: two") == "two"
        assert visitor.messages == ["say: one", "one", "say: two", "two"]


def test_an_error_in_a_stream_is_said(visit, server):
    visitor = visit(server)
    visitor.write("say: nan")
    assert "nan" in visitor.error
    assert visitor.messages == [] and visitor.tab.input_value("#question") == "say: nan"
    assert visitor.ask("say: one") == "one" and not visitor.tab.is_visible("#error")


def test_a_failed_edit_leaves_the_conversation(visit, server):
    visitor = visit(server)
    visitor.ask("say: one")
    visitor.tab.click("[data-action=edit]")
    visitor.tab.fill(".editing textarea", "say: nan")
    visitor.tab.press(".editing textarea", "Enter")
    assert "nan" in visitor.error and visitor.messages == ["say: one", "one"]


def test_a_server_that_is_away(visit, server):
    visitor = visit(server)
    visitor.ask("say: one")
    visitor.context.set_offline(True)
    visitor.write("say: two")
    assert "does not answer. Is it running?" in visitor.error
    assert visitor.messages == ["say: one", "one"]
    visitor.context.set_offline(False)
    visitor.tab.click("#try-again")
    visitor.tab.locator(".assistant").nth(1).wait_for()
    assert visitor.answer() == "two"


def test_a_stream_that_just_ends_is_no_whole_answer(visit, server):
    visitor = visit(server)
    event = 'data: {"choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": null}]}\n\n'
    head = {"status": 200, "content_type": "text/event-stream"}
    visitor.tab.route("**/v1/chat/completions", lambda route: route.fulfill(body=event, **head))
    assert visitor.ask("say: one") == "half"
    assert visitor.error == "The connection ended before the answer did."
    assert visitor.tab.inner_text(".assistant .stats").endswith("broken off")


def test_a_conversation_that_is_too_long(visit):
    with live(columns=128) as server:
        visitor, count = visit(server), 0
        while count < 10 and not visitor.tab.is_visible("#error"):
            visitor.write(f"say: this is number {count}")
            count += 1
            visitor.tab.wait_for_selector(f"#error, .message:nth-child({2 * count}) [data-action=again]")
        assert count > 2 and visitor.error.startswith("This is too long for the model.")
        assert "the model holds 128 together" in visitor.error
        visitor.tab.click("#open-options")
        visitor.tab.check("#option-trim")
        visitor.tab.click("#try-again")
        visitor.tab.locator(".assistant").nth(count - 1).wait_for()
        assert visitor.answer() == f"this is number {count - 1}"
        assert len(visitor.messages) == 2 * count  # what the model forgot is still to be read


def test_thoughts_are_folded(visit, server):
    visitor = visit(server)
    deltas = [{"reasoning_content": "let me *think*"}, {"content": "answer"}]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    head = {"status": 200, "content_type": "text/event-stream"}
    visitor.tab.route("**/v1/chat/completions", lambda route: route.fulfill(body=events, **head))
    assert visitor.ask("one") == "answer"
    assert not visitor.tab.is_visible(".thoughts .body")
    visitor.tab.click(".thoughts summary")
    assert visitor.tab.inner_text(".thoughts em") == "think"


# Models


def test_a_model_that_completes_texts(visit):
    """GLM (2021): each text stands for itself."""
    with live(kind="glm-tiny-chinese", columns=512) as server:
        visitor = visit(server, locale="zh-CN")
        assert "续写" in visitor.tab.inner_text("#hint h2")
        visitor.tab.click(".examples button >> nth=0")
        visitor.tab.press("#question", "Enter")
        visitor.tab.wait_for_selector(".assistant .body:not(:empty)")
        visitor.answer()
        visitor.ask("从前有一座山，")
        path, body = visitor.asked[-1]
        assert path == "/v1/completions" and body["prompt"] == "从前有一座山，" and "messages" not in body
        assert body["max_tokens"] == 256
        visitor.tab.click("#open-options")
        assert not visitor.tab.is_visible("#option-system")
        rows = json.loads(saved(visitor, "#export")[1])
        assert [row["prompt"] for row in rows] == ["人工智能是", "从前有一座山，"] and all(
            row["completion"] for row in rows
        )


@pytest.fixture
def real_server(chat_models, tmp_path):
    """A server of an ONNX export of a tiny GLM-4-0414."""
    write_export(chat_models["glm4-0414"], tmp_path)
    with live_export(tmp_path, max_length=128) as found:
        yield found


def test_the_page_shows_what_a_real_model_writes(visit, real_server):
    visitor = visit(real_server)
    visitor.option("temperature", "0")
    visitor.option("max_tokens", "12")
    visitor.ask("你好")
    asked = {"messages": [{"role": "user", "content": "你好"}], "temperature": 0, "max_tokens": 12}
    wanted = real_server.post("/v1/chat/completions", asked)[1]["choices"][0]["message"]["content"]
    kept = visitor.run(
        "JSON.parse(localStorage.getItem(Object.keys(localStorage).find((key) => key.includes('conversation'))))"
    )
    assert kept["messages"][1]["content"] == wanted

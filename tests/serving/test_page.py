"""The page in a real Chromium, in front of real servers: what someone does there, and what is then sent and seen."""

import json
import re

import pytest
from browser import bodies, saved, turns
from live_server import live, wait_until

from glm.datasets.tasks import load_examples

pytestmark = [pytest.mark.slow, pytest.mark.process]
MARKDOWN = """say: # Title

**bold** and `code`

```python
def f(x):
    return x
```

| a | b |
|---|---|
| 1 | 2 |

- [x] done
"""


@pytest.fixture(scope="module")
def server():
    with live(seconds=0.005, columns=2048) as found:
        yield found


# Conversations


def test_a_conversation_is_kept(visit, server):
    visitor = visit(server)
    assert visitor.ask("say: 你好，世界。😀") == "你好，世界。😀"
    assert visitor.ask("say: two") == "two"
    assert turns(visitor) == [("user", "say: 你好，世界。😀"), ("assistant", "你好，世界。😀"), ("user", "say: two")]
    body = bodies(visitor)[-1]
    assert set(body) == {"model", "stream", "stream_options", "messages"}  # what is not set is left to the model
    before = visitor.messages
    visitor.tab.reload()
    visitor.tab.wait_for_selector(".assistant")
    assert visitor.messages == before == ["say: 你好，世界。😀", "你好，世界。😀", "say: two", "two"]


def test_tokens_and_their_rate_are_those_of_the_server(visit, server):
    visitor = visit(server)
    answer = visitor.ask("say: one two three four five six seven eight nine ten")
    ids = server.post("/tokenize", {"prompt": answer, "add_special_tokens": False})[1]
    stats = visitor.tab.inner_text(".assistant .stats")
    found = re.fullmatch(r"(\d+) tokens · ([\d.,]+) tokens/s · first after (\d+\.\d\d) s", stats)
    assert found, stats
    assert int(found[1]) == ids["count"] + 1  # the end is a token, too
    assert 1 < float(found[2].replace(",", "")) < 1 / 0.005  # a step takes 5 ms at least


def test_stop_keeps_what_was_written_and_ends_the_work(visit, server):
    visitor = visit(server)
    for stop in (lambda: visitor.tab.click("#stop"), lambda: visitor.tab.keyboard.press("Escape")):
        visitor.write("say: endless ")
        visitor.tab.wait_for_selector(".assistant.growing .body:has-text('endless')")
        stop()
        assert visitor.answer().startswith("endless")
        assert visitor.tab.locator(".assistant .stats").last.inner_text().endswith("stopped")
        wait_until(lambda: server.running == 0)
    visitor.ask("say: on")
    assert turns(visitor)[-1] == ("user", "say: on") and len(turns(visitor)) == 5


def test_an_answer_written_while_another_conversation_is_shown(visit, server):
    visitor = visit(server)
    visitor.write("say: endless one")
    visitor.tab.wait_for_selector(".assistant.growing")
    visitor.tab.click("#new")
    assert visitor.messages == [] and visitor.tab.is_visible("#stop")
    visitor.tab.click("#conversations .name")
    visitor.tab.wait_for_selector(".assistant.growing")
    visitor.tab.click("#stop")
    assert visitor.answer().startswith("endless one")


def test_write_again_asks_the_same(visit, server):
    visitor = visit(server)
    visitor.ask("first")
    visitor.ask("say: second")
    visitor.tab.evaluate("document.querySelector('.assistant:last-child .body').textContent = 'old'")
    visitor.tab.click("[data-action=again]")
    assert visitor.tab.locator(".assistant").count() <= 2
    visitor.until("document.querySelectorAll('.assistant .body')[1]?.textContent.includes('second')")
    visitor.answer()
    first, second, third = bodies(visitor)
    assert second == third and first != second
    assert len(visitor.messages) == 4


def test_an_edited_question_is_asked_anew(visit, server):
    visitor = visit(server)
    visitor.ask("say: one")
    visitor.ask("say: two")
    visitor.tab.locator("[data-action=edit]").first.click()
    visitor.tab.fill(".editing textarea", "say: three")
    visitor.tab.press(".editing textarea", "Enter")
    visitor.until("document.querySelectorAll('.message').length === 2")
    assert visitor.answer() == "three"
    assert turns(visitor) == [("user", "say: three")] and visitor.messages == ["say: three", "three"]
    visitor.tab.locator("[data-action=edit]").first.click()
    visitor.tab.press(".editing textarea", "Escape")
    assert visitor.messages == ["say: three", "three"]


def test_copy(visit, server):
    visitor = visit(server, permissions=["clipboard-read", "clipboard-write"])
    visitor.ask(MARKDOWN)
    clipboard = "navigator.clipboard.readText()"
    visitor.tab.click(".assistant > .foot [data-action=copy]")
    visitor.tab.wait_for_selector("text=Copied")
    assert visitor.run(clipboard) == MARKDOWN.removeprefix("say: ").strip()
    visitor.tab.click(".code-bar button")
    visitor.until(f"{clipboard}.then((text) => text.startsWith('def'))")
    assert visitor.run(clipboard) == "def f(x):\n    return x"


def test_copy_where_the_browser_has_no_clipboard(visit, server):
    """As over plain HTTP from another machine."""
    visitor = visit(server, permissions=["clipboard-read"])
    visitor.run("void Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})")
    visitor.ask("say: old way")
    visitor.tab.click(".assistant > .foot [data-action=copy]")
    visitor.tab.wait_for_selector("text=Copied")
    visitor.run("delete navigator.clipboard")
    assert visitor.run("navigator.clipboard.readText()") == "old way"


# What the browser keeps


def test_several_conversations_and_their_end(visit, server):
    visitor = visit(server)
    visitor.ask("say: one")
    visitor.tab.click("#new")
    visitor.ask("say: two")
    titles = visitor.tab.locator("#conversations .name")
    assert titles.all_inner_texts() == ["say: two", "say: one"]
    titles.nth(1).click()
    assert visitor.messages == ["say: one", "one"]
    remove = visitor.tab.locator("#conversations .remove")
    visitor.tab.once("dialog", lambda dialog: dialog.dismiss())
    remove.nth(1).click()
    assert titles.count() == 2
    visitor.tab.once("dialog", lambda dialog: dialog.accept())
    remove.nth(1).click()
    assert titles.all_inner_texts() == ["say: two"] and visitor.messages == []
    visitor.tab.reload()
    visitor.tab.wait_for_selector(".assistant")
    assert titles.all_inner_texts() == ["say: two"] and visitor.messages == ["say: two", "two"]


def test_two_tabs_do_not_overwrite_each_other(visit, server):
    visitor = visit(server)
    first, visitor.tab = visitor.tab, visitor.new_tab()
    visitor.ask("say: of the second tab")
    visitor.tab = first
    visitor.ask("say: of the first tab")
    titles = visitor.new_tab().locator("#conversations .name").all_inner_texts()
    assert titles == ["say: of the first tab", "say: of the second tab"]
    assert visitor.tab.locator("#conversations .name").all_inner_texts() == titles


def test_export_is_what_fine_tuning_reads(visit, server, tmp_path):
    visitor = visit(server)
    visitor.option("system", "你是导游")
    visitor.ask("say: one")
    visitor.ask("say: two")
    name, text = saved(visitor, "#export")
    assert name == "say-one.json"
    (tmp_path / "train.json").write_text(text, "utf-8")
    [example] = load_examples("messages", "train", str(tmp_path / "train.json")).examples
    said = [
        ("system", "你是导游"),
        ("user", "say: one"),
        ("assistant", "one"),
        ("user", "say: two"),
        ("assistant", "two"),
    ]
    assert [(message["role"], message["content"]) for message in example.messages] == said
    visitor.tab.click("#new")
    visitor.ask("say: three")
    assert len(json.loads(saved(visitor, "#export-all")[1])) == 2


def test_a_full_browser_is_said(visit, server):
    visitor = visit(server)
    visitor.run("void (Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); })")
    assert visitor.ask("say: one") == "one"
    assert "no room for more conversations" in visitor.error


# Options


def test_options_and_system_prompt_are_sent(visit, server):
    visitor = visit(server)
    visitor.option("system", "be brief")
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "seed": 7}
    for name, value in given.items():
        visitor.option(name, str(value))
    visitor.option("max_tokens", "3")
    visitor.option("stopStrings", "END\n\nSTOP")
    assert visitor.ask("say: one two three four five six") != ""
    body = bodies(visitor)[-1]
    assert {name: body[name] for name in given} == given
    assert body["max_tokens"] == 3 and body["stop"] == ["END", "STOP"]
    assert turns(visitor)[0] == ("system", "be brief")
    assert visitor.tab.inner_text(".assistant .stats").endswith("ends at the most tokens")
    visitor.tab.reload()
    visitor.tab.wait_for_selector(".assistant")
    visitor.tab.click("#new")
    visitor.ask("say: kept")
    assert bodies(visitor)[-1]["temperature"] == 0.5 and turns(visitor)[0] == ("system", "be brief")
    visitor.tab.click("#open-options")
    visitor.tab.click("#reset")
    visitor.ask("say: as the model")
    assert set(bodies(visitor)[-1]) == {"model", "stream", "stream_options", "messages"}
    assert turns(visitor)[0][0] == "user"


def test_defaults_are_shown_as_the_server_has_them(visit, server):
    visitor = visit(server)
    visitor.tab.click("#open-options")
    shown = visitor.tab.eval_on_selector_all(".numbers input", "all => all.map(each => [each.name, each.placeholder])")
    assert dict(shown) == {
        "temperature": "1", "top_p": "1", "top_k": "0", "min_p": "0", "repetition_penalty": "1",
        "max_tokens": "room", "seed": "random",
    }  # fmt: skip


def test_a_number_that_is_none_is_said_before_anything_is_sent(visit, server):
    visitor = visit(server)
    visitor.option("top_p", "2")
    visitor.write("say: one")
    assert visitor.error == "Top p is no number from 0 to 1."
    assert visitor.asked == [] and visitor.tab.input_value("#question") == "say: one"
    visitor.option("top_p", "")
    visitor.tab.press("#question", "Enter")
    assert visitor.answer() == "one" and not visitor.tab.is_visible("#error")


# Thinking


def test_thoughts_are_folded_above_the_answer_and_switched_off(visit):
    with live(kind="glm47-tiny", columns=2048) as thinking:
        visitor = visit(thinking)
        assert visitor.ask("say:想一想</think>好的") == "好的"
        fold = visitor.tab.locator(".assistant .thoughts")
        assert fold.get_attribute("open") is None and not fold.locator(".body").is_visible()
        fold.locator("summary").click()
        assert fold.locator(".body").inner_text() == "想一想"
        assert "chat_template_kwargs" not in bodies(visitor)[-1]
        visitor.tab.click("#open-options")
        assert visitor.tab.is_checked("#option-thinking")
        visitor.tab.uncheck("#option-thinking")
        visitor.tab.keyboard.press("Escape")
        assert visitor.ask("say:好") == "好"
        assert bodies(visitor)[-1]["chat_template_kwargs"] == {"enable_thinking": False}
        assert turns(visitor)[1] == ("assistant", "好的")  # without its thoughts
        assert visitor.tab.locator(".assistant .thoughts").count() == 1


def test_a_model_without_thoughts_has_no_switch(visit, server):
    visitor = visit(server)
    visitor.tab.click("#open-options")
    assert visitor.tab.locator("#option-thinking").count() == 0

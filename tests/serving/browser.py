"""A real browser, and someone who uses the page in it. Without playwright or Chromium its tests are skipped."""

import json
import shutil
from contextlib import contextmanager

import pytest
from live_server import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SECONDS = 60  # in which the page must have shown something, also on a machine with other work


@contextmanager
def open_browser():
    """Chromium without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: requirements-test.txt")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """Someone with a browser of their own, in front of a server's page.

    Attributes:
        tab: playwright's page.
        asked: (path, body) of each request that generates.
        wrong: errors of scripts, and what the browser refused.
    """

    def __init__(self, browser, server, locale: str = "en-US", width: int = 1280, height: int = 800, **options):
        size = {"width": width, "height": height}
        self.context = browser.new_context(locale=locale, viewport=size, **options)
        self.context.set_default_timeout(SECONDS * 1000)
        self.server, self.asked, self.wrong = server, [], []
        self.tab = self.new_tab()

    def new_tab(self):
        tab = self.context.new_page()
        tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        tab.on("console", lambda message: self.note(message.type, message.text))
        tab.on("request", self._request)
        tab.goto(self.server.url)
        tab.wait_for_selector("#hint h2, #messages article")
        return tab

    def note(self, kind: str, text: str) -> None:
        # That a request was answered with an error is what some tests are about.
        if kind == "error" and "Failed to load resource" not in text:
            self.wrong.append(text)

    def _request(self, request) -> None:
        if request.method == "POST":
            self.asked.append((request.url.removeprefix(self.server.url), json.loads(request.post_data)))

    def write(self, text: str) -> None:
        self.tab.fill("#question", text)
        self.tab.press("#question", "Enter")

    def ask(self, text: str) -> str:
        """Asks, waits for the whole answer and gives it as it is seen."""
        count = self.tab.locator(".assistant").count()
        self.write(text)
        self.tab.locator(".assistant:not(.pending)").nth(count).wait_for()
        return self.answer()

    def answer(self) -> str:
        """The last answer, once it is whole."""
        self.tab.wait_for_selector("#stop", state="hidden")
        return self.tab.locator(".assistant > .body").last.inner_text()

    @property
    def messages(self) -> list[str]:
        return self.tab.locator(".message > .body").all_inner_texts()

    @property
    def error(self) -> str:
        self.tab.wait_for_selector("#error")
        return self.tab.inner_text("#error span")

    def run(self, script: str, argument=None):
        """The value of a JavaScript expression or function."""
        return self.tab.evaluate(script, argument)

    def until(self, script: str) -> None:
        """Waits for a JavaScript condition; the page's policy refuses playwright's own way of asking."""
        wait_until(lambda: self.run(script), SECONDS)

    def option(self, name: str, value: str) -> None:
        if not self.tab.is_visible("#options"):
            self.tab.click("#open-options")
        self.tab.fill(f"#option-{name}", value)

    def close(self) -> None:
        self.context.close()
        assert self.wrong == [], "\n".join(self.wrong)


def bodies(visitor: Visitor) -> list[dict]:
    return [body for _, body in visitor.asked]


def turns(visitor: Visitor) -> list[tuple[str, str]]:
    """Role and content of the messages that were sent last."""
    return [(message["role"], message["content"]) for message in bodies(visitor)[-1]["messages"]]


def saved(visitor: Visitor, button: str) -> tuple[str, str]:
    """Name and text of the file that a button gives."""
    with visitor.tab.expect_download() as download:
        visitor.tab.click(button)
    return download.value.suggested_filename, download.value.path().read_text("utf-8")

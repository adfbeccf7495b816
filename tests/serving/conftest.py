"""Servers around a simulated engine, for all tests of a file."""

import pytest
from browser import Visitor, open_browser
from live_server import live


@pytest.fixture(scope="module")
def server():
    with live() as found:
        yield found


@pytest.fixture(scope="module")
def slow():
    """Each token takes 20 ms; two rows."""
    with live(rows=2, seconds=0.02) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture
def visit(browser):
    """Opens pages in browsers of their own, and looks at the end whether a script failed."""
    visitors = []

    def opened(server, **options) -> Visitor:
        visitors.append(Visitor(browser, server, **options))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.close()

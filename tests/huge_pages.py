"""Huge pages of Linux: whether a process that asks for them gets them here."""

import pytest

from glm.device.tuning import HUGE_PAGES

needs_huge_pages = pytest.mark.skipif(
    not HUGE_PAGES.is_file() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="huge pages are not given here to who asks, but to all or to none",
)

"""Paddle's errors in one line."""

import re

# `(NotFound) The kernel … (at /paddle/…/kernel_factory.cc:380)`, the line that a report of many lines is about.
_KIND = re.compile(r"^(?:\w+Error: )?\([A-Z]\w+\) ")
_PLACE = re.compile(r"\s*(\[Hint: .*?\]\s*)?\(at /[^)]*\)\s*$")
_BACKENDS = re.compile(r" Selected wrong Backend .*")


def paddle_reason(error: BaseException) -> str:
    """The line of an error of Paddle that names the fault, without the place in Paddle's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _KIND.match(line)] or [line for line in lines if "Error" in line]
    line = (named or lines or [f"{type(error).__name__} without a reason"])[0]
    return _BACKENDS.sub("", _PLACE.sub("", _KIND.sub("", line))).rstrip(".")

"""Conversations of GLM-4.5 and GLM-4.7 whose published renderings are known by their SHA-256 sums.

    python tests/tokenizers/glm45_cases.py FOLDER

writes glm45_sums.json from FOLDER/GLM-4.6.jinja and FOLDER/GLM-4.7-Flash.jinja, the templates of zai-org/GLM-4.6 and
zai-org/GLM-4.7-Flash as llama.cpp's models/templates had them (commit 1920345c3 and SHA-256 d63ad536…); they are not
ours to copy.
"""

import hashlib
import json
import sys
from itertools import product
from pathlib import Path

SUMS = Path(__file__).with_name("glm45_sums.json")
PUBLISHED = ("GLM-4.6", "GLM-4.7-Flash")

PLACE = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "天气 <b>&", "parameters": PLACE}}
NOW = {"type": "function", "function": {"name": "now"}}
USER = {"role": "user", "content": "你好"}
ANSWER = {"role": "assistant", "content": "  你好👋\n很高兴\n"}
THOUGHT = {**ANSWER, "reasoning_content": "\n想一想\n再想 "}
INSIDE = {"role": "assistant", "content": "<think>\n在文中\n</think>\n\n好"}
ARGUMENTS = {"city": " 北京\n", "days": 3, "list": [1, "a"], "exact": True, "none": None, "text": "3"}
CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}},
        {"type": "function", "function": {"name": "now", "arguments": {}}},
    ],
}
SAID = {**CALLS, "content": "我来查", "reasoning_content": "查"}
SEEN = {"role": "tool", "content": "晴"}
SYSTEM = {"role": "system", "content": "你是助手"}
NO_THINK = {"role": "user", "content": "嗨/nothink"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "甲"}, {"type": "text", "text": "乙"}]}

CONVERSATIONS = {
    "question": [USER],
    "system": [SYSTEM, USER],
    "rounds": [USER, ANSWER, USER],
    "thoughts": [USER, THOUGHT],
    "earlier thoughts": [USER, THOUGHT, USER],
    "thoughts inside": [USER, INSIDE],
    "earlier thoughts inside": [USER, INSIDE, USER],
    "calls": [USER, CALLS, SEEN, SEEN],
    "calls and thoughts": [USER, SAID, SEEN, SEEN, ANSWER],
    "after calls": [USER, SAID, SEEN, THOUGHT, USER],
    "parts": [PARTS],
    "nothink": [NO_THINK, THOUGHT, NO_THINK],
    "empty": [USER, {"role": "assistant", "content": "", "reasoning_content": " "}],
}
VARIABLES = (
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"clear_thinking": False},
    {"clear_thinking": True, "enable_thinking": False},
)


def sums(source: str) -> dict[str, str]:
    """Conversation → the sum of what a template makes of it: with tools, as a prompt, and by each of `VARIABLES`."""
    from glm.tokenizers.chat_template import ChatTemplate

    template, ways = ChatTemplate.of(source), list(product((None, [WEATHER, NOW]), (False, True), VARIABLES))
    found = {}
    for name, messages in CONVERSATIONS.items():
        texts = [template.render(messages, tools, prompt, **variables) for tools, prompt, variables in ways]
        found[name] = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    found = {name: sums((Path(sys.argv[1]) / f"{name}.jinja").read_text(encoding="utf-8")) for name in PUBLISHED}
    SUMS.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

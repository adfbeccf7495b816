"""Conversations with a model that thinks: thoughts apart on the screen, and none of them in later prompts."""

import io
import sys
from pathlib import Path

import pytest

from glm.cli.terminal import converse
from glm.encoding.processor import processor_of
from glm.encoding.tool_calls import CONTENT, THOUGHTS
from glm.inference.conversation import Conversation
from glm.inference.generator import TextGenerator
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
NAMES = ("glm45-tiny", "glm47-tiny")


class Scripted(TextGenerator):
    """Writes given texts, one after another."""

    def __init__(self, name: str, *texts: str, thinking: bool | None = None):
        super().__init__(processor_of(GLMTokenizer.from_pretrained(DATA / name), lengths=(1024, 64)))
        self.processor.set_thinking(thinking)
        self.texts, self.prompts = list(texts), []

    def results(self, prompts, config, batch_size):
        raise NotImplementedError

    def stream_tokens(self, ids, config):
        self.prompts.append(self.processor.tokenizer.text_of(ids, skip_special_tokens=False))
        yield from self.processor.tokenizer.text_ids(self.texts.pop(0) + "<|user|>")

    def conversed(self, **options) -> Conversation:
        return Conversation(self, self.processor.generation_config(max_length=64), **options)


def opening(name: str) -> str:
    return "\n<think>" if name == "glm45-tiny" else ""


@pytest.mark.parametrize("name", NAMES)
def test_thoughts_are_pieces_of_their_own_and_no_history(name):
    generator = Scripted(name, f"{opening(name)}想一想</think>好的", f"{opening(name)}再想</think>再见")
    conversation = generator.conversed()
    pieces = list(conversation.pieces("甲"))
    texts = {field: "".join(piece.text for piece in pieces if piece.field == field) for field in (THOUGHTS, CONTENT)}
    assert texts == {THOUGHTS: "想一想", CONTENT: "好的"}
    assert "".join(conversation.ask("乙")) == "再见"
    assert "想一想" not in generator.prompts[1] and "好的" in generator.prompts[1]
    assert [message["content"] for message in conversation.messages] == ["甲", "好的", "乙", "再见"]


def test_without_thinking(name="glm47-tiny"):
    generator = Scripted(name, "好的", thinking=False)
    assert "".join(generator.conversed().ask("甲")) == "好的"
    assert generator.prompts[0].endswith("</think>")


def test_calls_of_tools_go_on():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}}
    call = "<tool_call>f<arg_key>n</arg_key><arg_value>3</arg_value></tool_call>"
    generator = Scripted("glm47-tiny", f"想</think>{call}", "懂</think>三")
    conversation = generator.conversed(tools=[tool])
    assert list(conversation.ask("甲")) == []
    assert conversation.messages[-1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"n": 3}'}
    assert "".join(conversation.ask("3", role="observation")) == "三"
    assert f"<think>想</think>{call}<|observation|><tool_response>3</tool_response>" in generator.prompts[1]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_terminal_shows_thoughts_apart(monkeypatch, capsys, terminal):
    generator = Scripted("glm47-tiny", "想</think>好", "只想")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("甲\n乙\n".encode()), encoding="utf-8"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    converse(generator.conversed)
    dim, plain = ("\x1b[2m", "\x1b[22m") if terminal else ("", "")
    assert capsys.readouterr().out == f"{dim}想{plain}\n\n好\n{dim}只想{plain}\n"

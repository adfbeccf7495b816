"""Conversations in C++ become Python's prompts, and thoughts are told apart as Python tells them."""

import random

import pytest
from cpp_texts import random_texts
from tokenize_program import TINY, tokenize_program

from glm.encoding.chat_formats import chat_format
from glm.encoding.chat_processor import THINKING
from glm.encoding.tool_calls import THOUGHTS, stream_pieces
from glm.errors import GLMError

pytestmark = pytest.mark.long
KINDS = ("chatglm3", "glm4", "glm4-0414", "glm45", "glm47")
SIGNS = ("<think>", "</think>", "/nothink", "<|user|>", "<|assistant|>", "\n", " ", "[gMASK]", "<tool_call>", "a", "好")


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory, programs):
    return tokenize_program(request.param, tmp_path_factory.mktemp("chat"), programs)


def text(draw: random.Random) -> str:
    if draw.random() < 0.3:
        return random_texts(1, draw.randrange(10**6))[0].encode("utf-8", "ignore").decode() or "x"
    return "".join(draw.choice(SIGNS) for _ in range(draw.randrange(1, 7)))


def conversation(draw: random.Random, thinks: bool) -> list[dict]:
    """One that ends with a question; answers may say nothing, or think."""
    messages = [{"role": "system", "content": text(draw)}] * (draw.random() < 0.4)
    for _ in range(draw.randrange(4)):
        answer = {"role": "assistant", "content": text(draw) if draw.random() < 0.8 else ""}
        if thinks and draw.random() < 0.5:
            answer["reasoning_content"] = f"t{text(draw)}"
        messages += [{"role": "user", "content": text(draw)}, answer]
    return [*messages, {"role": "user", "content": text(draw)}]


def prompt_of(tokenizer, messages: list[dict]) -> dict:
    try:
        return {"ids": chat_format(tokenizer).prompt_ids(tokenizer, messages)}
    except GLMError as error:
        return {"error": str(error)}


def test_prompts(case):
    processor, ask = case
    draw, chat = random.Random(3), chat_format(processor.tokenizer)
    modes = (None, True, False) if THINKING in processor.tokenizer.readable_variables() else (None,)
    for thinking in modes:
        tokenizer = processor.tokenizer
        if thinking is not None:
            tokenizer = tokenizer.with_template_variables({THINKING: thinking})
        talks = [conversation(draw, chat.thinks) for _ in range(1500)]
        found = ask([{"messages": messages, "thinking": thinking} for messages in talks])
        refused = 0
        for messages, said in zip(talks, found, strict=True):
            wanted = prompt_of(tokenizer, messages)
            assert {key: said[key] for key in wanted} == wanted, messages
            refused += "error" in wanted
        assert refused < len(talks) // 10


def test_thinking_is_for_templates_that_have_it(case):
    processor, ask = case
    (said,) = ask([{"messages": [{"role": "user", "content": "a"}], "thinking": True}])
    if THINKING in processor.tokenizer.readable_variables():
        assert "ids" in said
    else:
        with pytest.raises(GLMError) as error:
            processor.set_thinking(True)
        assert said["error"] == str(error.value)


def together(pieces) -> list[list]:
    """Pieces whose neighbours are of the other kind."""
    joined: list[list] = []
    for thought, text in pieces:
        if joined and joined[-1][0] == thought:
            joined[-1][1] += text
        else:
            joined.append([thought, text])
    return joined


@pytest.mark.parametrize("name", ["glm45", "glm47"])
def test_thoughts(tmp_path, programs, name):
    """In ids at random, tags of every kind among them, with stop strings and without."""
    processor, ask = tokenize_program(name, tmp_path, programs)
    tokenizer, draw = processor.tokenizer, random.Random(7)
    tags = ("<think>", "</think>", "<|assistant|>", "<tool_call>")
    signs = [tokenizer.convert_tokens_to_ids(token) for token in tags for _ in range(5)]
    signs += tokenizer.text_ids("</think> \n <think>\n\n 2023 [[训练时间]] <thin </thin f\n")
    rows = []
    for _ in range(1500):
        count = draw.randrange(1, 40)
        ids = [draw.choice(signs) if draw.random() < 0.6 else draw.randrange(len(tokenizer)) for _ in range(count)]
        stop = draw.choice(([], [], ["</think>"], ["k>", "a"], ["\n"]))
        rows.append({"answer": ids, "thinks": draw.random() < 0.5, "stop": stop})
    several = 0
    for row, said in zip(rows, ask(rows), strict=True):
        clean = (processor.postprocess, processor.stable_length)
        reader = processor.chat.open_reader((), clean, row["thinks"], False)
        pieces = stream_pieces(tokenizer, row["answer"], reader, row["stop"])
        wanted = together((piece.field == THOUGHTS, piece.text) for piece in pieces)
        assert together(said["answer"]) == wanted, row
        several += len(wanted) > 1
    assert several > len(rows) // 5


def test_all_kinds_are_here():
    assert {*KINDS} == {*TINY} - {"glm-chinese", "chatglm", "chatglm2"}  # these have no roles

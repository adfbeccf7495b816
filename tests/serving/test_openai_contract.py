"""The `openai` package against this server: what its users call, and what they get."""

import json

import pytest
from live_server import MODEL

openai = pytest.importorskip("openai", reason="the contract is that of the openai package: requirements-test.txt")
MESSAGES = [{"role": "user", "content": "say: 你好，世界。😀 bye"}]
SAID = "你好，世界。😀 bye"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def streamed(stream) -> tuple[str, list]:
    chunks = list(stream)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL, "alias"]
    assert client.models.retrieve("alias").id == "alias"
    with pytest.raises(openai.NotFoundError, match="is not served here") as error:
        client.models.retrieve("gpt/4")
    assert error.value.code == "model_not_found"


def test_a_chat_completion(client):
    found = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert found.id.startswith("chatcmpl-") and found.object == "chat.completion" and found.model == MODEL
    [choice] = found.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", SAID, "stop")
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.usage.prompt_tokens_details.cached_tokens == 0
    assert found.system_fingerprint == "fp_test"


def test_a_stream_is_the_whole_answer_in_pieces(client):
    text, chunks = streamed(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert text == SAID and len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop" and chunks[-1].choices[0].delta.content is None
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)


def test_usage_comes_last_where_it_is_asked_for(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, **options))
    assert chunks[-1].choices == [] and all(chunk.choices for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in chunks[:-1])
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert chunks[-1].usage == whole.usage


def test_log_probabilities_of_a_chat(client):
    asked = {"model": MODEL, "messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
    content = client.chat.completions.create(**asked).choices[0].logprobs.content
    joined = bytes(byte for entry in content[:-1] for byte in entry.bytes)
    assert joined.decode() == SAID  # also where a character has several tokens
    assert {entry.logprob for entry in content} == {-0.5}
    assert all([top.logprob for top in entry.top_logprobs] == [-0.5, -1.5] for entry in content)
    chunks = client.chat.completions.create(**asked, stream=True)
    pieces = [entry for chunk in chunks if (told := chunk.choices[0].logprobs) for entry in told.content]
    assert pieces == content


def test_several_choices(client):
    found = client.chat.completions.create(model=MODEL, messages=MESSAGES, n=3)
    assert [(choice.index, choice.message.content) for choice in found.choices] == [(i, SAID) for i in range(3)]
    one = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert found.usage.prompt_tokens == one.usage.prompt_tokens
    assert found.usage.completion_tokens == 3 * one.usage.completion_tokens
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(model=MODEL, messages=MESSAGES, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert set(texts.values()) == {SAID}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_no_part_of_the_text(client, stream):
    asked = {"model": MODEL, "messages": MESSAGES, "stop": ["😀 b", "never"]}
    if stream:
        text, chunks = streamed(client.chat.completions.create(**asked, stream=True))
        end = chunks[-1].choices[0]
    else:
        [end] = client.chat.completions.create(**asked).choices
        text = end.message.content
    assert text == "你好，世界。" and end.finish_reason == "stop" and end.stop_reason == "😀 b"


def test_a_stop_string_is_kept_where_it_is_asked_for(client):
    asked = {"model": MODEL, "messages": MESSAGES, "stop": "😀 b"}
    [choice] = client.chat.completions.create(**asked, extra_body={"include_stop_str_in_output": True}).choices
    assert choice.message.content == "你好，世界。😀 b"


def test_the_length_is_a_reason(client):
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2}
    [choice] = client.chat.completions.create(**asked).choices
    assert choice.finish_reason == "length"
    text, chunks = streamed(client.chat.completions.create(**asked, stream=True))
    assert (text, chunks[-1].choices[0].finish_reason) == (choice.message.content, "length")


def test_max_completion_tokens_wins(client):
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1, "max_completion_tokens": 3}
    assert client.chat.completions.create(**asked).usage.completion_tokens == 3


def test_contents_in_parts_and_the_developers_role(client):
    parts = [{"type": "text", "text": "say: "}, {"type": "text", "text": "ab"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    found = client.chat.completions.create(model=MODEL, messages=messages)
    assert found.choices[0].message.content == "ab"


def test_completions(client):
    found = client.completions.create(model=MODEL, prompt="say: abc")
    assert (found.object, found.choices[0].text, found.choices[0].finish_reason) == ("text_completion", "abc", "stop")
    found = client.completions.create(model=MODEL, prompt=["say: abc", "say: de"], n=2, max_tokens=9)
    assert [choice.text for choice in found.choices] == ["abc", "abc", "de", "de"]
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]


def test_completions_have_16_tokens_by_default(client):
    found = client.completions.create(model=MODEL, prompt="say: endless")
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (16, "length")


def test_a_stream_of_completions(client):
    chunks = list(client.completions.create(model=MODEL, prompt="say: 好😀", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "好😀"
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_echo_and_log_probabilities(server, client):
    """As lm-evaluation-harness reads them: an entry a prompt token, and one that was written."""
    tokenizer = server.service.model.tokenizer
    ids = tokenizer.text_ids("say: ab")
    asked = {"model": MODEL, "prompt": [ids, ids[:-1]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    first, second = client.completions.create(**asked).choices
    assert first.text == "say: aba" and second.text == "say: aa"
    told = first.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + 1
    assert told.token_logprobs == [-1.0] * len(ids) + [-0.5]
    assert all(value == max(top.values()) for value, top in zip(told.token_logprobs, told.top_logprobs, strict=True))
    assert told.text_offset[0] == 0 and told.text_offset == sorted(told.text_offset)
    assert told.text_offset[-1] == len("say: ab") and "".join(told.tokens) == first.text
    assert len(second.logprobs.tokens) == len(ids)
    streamed = list(client.completions.create(**asked | {"prompt": ids}, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == first.text
    pieces = [chunk.choices[0].logprobs for chunk in streamed]
    assert [value for piece in pieces for value in piece.token_logprobs] == told.token_logprobs
    assert [value for piece in pieces for value in piece.text_offset] == told.text_offset
    assert streamed[0].choices[0].text.startswith("say: ab")


def test_a_models_own_tokens_are_no_part_of_a_prompt(server, client):
    """They stand before texts and ids, once, and are not told; without them nothing precedes the first token."""
    model = server.service.model
    opening, ids = model.tokenizer.build_inputs([]), model.tokenizer.text_ids("say: ab")
    asked = {"model": MODEL, "max_tokens": 1, "logprobs": 0, "echo": True}
    asked["extra_body"] = {"return_token_ids": True}
    for prompt, told in (("say: ab", ids), (ids, ids), ([*opening, *ids], [*opening, *ids])):
        [choice] = client.completions.create(**asked, prompt=prompt).choices
        assert choice.prompt_token_ids == [*opening, *ids] and len(choice.logprobs.tokens) == len(told) + 1
        assert (choice.logprobs.token_logprobs[0] is None) == (told != ids)
    asked["extra_body"] |= {"add_special_tokens": False}
    for prompt in ("say: ab", ids):
        [choice] = client.completions.create(**asked, prompt=prompt).choices
        assert choice.prompt_token_ids == ids and choice.logprobs.token_logprobs[:2] == [None, -1.0]


def test_a_prompt_can_be_scored_alone(client):
    found = client.completions.create(model=MODEL, prompt="abc", echo=True, logprobs=0, max_tokens=0)
    assert found.choices[0].text == "abc" and found.choices[0].finish_reason == "length"
    assert found.usage.completion_tokens == 0 and found.choices[0].logprobs.tokens[-1] == "c"


def test_beams_come_at_the_end(client):
    """They are an extra, and a stream of them has one piece."""
    found = client.completions.create(model=MODEL, prompt="say: abc", extra_body={"num_beams": 2})
    assert found.choices[0].text == "abc"


def test_the_raw_answer(client):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.headers["content-type"] == "application/json" and json.loads(raw.text)["choices"]


def test_errors_have_their_classes(client):
    with pytest.raises(openai.BadRequestError, match="'temperature' is -1") as error:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=-1)
    assert (error.value.param, error.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here; served: tiny, alias"):
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError, match="there is no such path"):
        client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.InternalServerError, match="became nan"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "say: nan"}])


def test_what_is_not_served_says_so(client):
    """Nothing that is known is ignored in silence."""
    for name, value in {"audio": {"voice": "x"}, "verbosity": "low", "reasoning_effort": "high"}.items():
        with pytest.raises(openai.BadRequestError, match=f"'{name}' is not supported here") as error:
            client.chat.completions.create(model=MODEL, messages=MESSAGES, **{name: value})
        assert error.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError, match="'suffix' is not supported here"):
        client.completions.create(model=MODEL, prompt="x", suffix="y")


def test_the_asynchronous_client(server):
    import asyncio

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            calls = [client.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(20)]
            return [found.choices[0].message.content for found in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [SAID] * 20

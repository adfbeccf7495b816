"""What fails inside the server: it is said to the one whom it concerns, and the others go on."""

import json
import re

from live_server import chat, live, wait_until
from simulated_core import SimulatedCore

from glm.engine import TokenLogprobs
from glm.serving.answers import ChatAnswer

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def test_a_request_that_the_engine_cannot_begin_fails_alone(server, monkeypatch):
    def broken(self, request):
        raise ValueError("no such\nthing")

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedCore, "submit", broken)
        status, found = server.post(CHAT, chat("say: a"))
    assert (status, found["error"]["code"]) == (500, "generation_failed")
    assert found["error"]["message"] == "ValueError: no such thing"
    assert server.post(CHAT, chat("say: a"))[0] == 200


def test_a_refused_request_is_not_counted():
    def counted() -> list[str]:
        text = server.send("GET", "/metrics")[2].decode()
        return re.findall(r"^glm:(?:prompt_tokens_total|e2e_request_latency_seconds_count){.*", text, re.MULTILINE)

    with live(rows=1, max_queue=0) as server:
        assert server.post(CHAT, chat("say: a"))[0] == 200
        wait_until(lambda: any(line.startswith("glm:e2e") and line.endswith(" 1.0") for line in counted()))
        before = counted()
        assert server.post(CHAT, chat(n=2))[0] == 400  # there is no room for two at all
        assert server.post(CHAT, chat(n=2, stream=True))[0] == 400
        assert counted() == before and len(before) == 2


def test_an_unexpected_error_in_a_stream_is_an_event(server, monkeypatch, caplog):
    def broken(self, place, piece, usage):
        raise ValueError(piece.text)

    monkeypatch.setattr(ChatAnswer, "chunk", broken)
    events = server.events(CHAT, chat("say: secret"))
    assert json.loads(events[-2])["error"]["code"] == "internal_error" and events[-1] == "[DONE]"
    wait_until(lambda: "in broken" in caplog.text)
    assert "ValueError" in caplog.text and "secret" not in caplog.text


def test_scores_of_columns_that_the_vocabulary_is_padded_with(server, monkeypatch):
    """Logits are often wider than the vocabulary, and any column may be among the likeliest."""
    padding = len(server.service.model.tokenizer) + 3
    monkeypatch.setattr(SimulatedCore, "_score", lambda *_: TokenLogprobs(-0.5, (padding,), (-0.25,)))
    status, found = server.post(CHAT, chat("say: a", logprobs=True, top_logprobs=1))
    assert status == 200, found
    [top] = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert top == {"token": "", "logprob": -0.25, "bytes": []}
    status, found = server.post(COMPLETIONS, {"prompt": "say: a", "logprobs": 1})
    assert status == 200 and found["choices"][0]["logprobs"]["top_logprobs"][0] == {"": -0.25, "a": -0.5}

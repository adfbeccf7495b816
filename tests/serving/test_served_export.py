"""A tiny model's export behind HTTP, its engine in this process: what depends on logits."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from family_models import write_family_model
from live_server import live_export, read_some, wait_until
from served_process import write_export

from glm.inference.exported import FoundExport
from glm.runtime.onnx_step import OnnxStepRuntime
from glm.runtime.step import InterruptedReadError

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = [5, 9, 33, 60, 7, 21, 80, 5, 9, 34]


@pytest.fixture(scope="module")
def folder(chat_models, tmp_path_factory):
    found = tmp_path_factory.mktemp("export")
    write_export(chat_models["glm4-0414"], found)
    return found


@pytest.fixture(scope="module")
def real_server(folder):
    with live_export(folder, max_length=128) as found:
        yield found


def choices(answer) -> list[dict]:
    status, found = answer
    assert status == 200, found
    return found["choices"]


@pytest.fixture(scope="module", params=["glm4-moe", "glm4-moe-lite"])
def sparse_server(request, tmp_path_factory):
    """Of a model with experts; one of them has latents in its cache."""
    model = write_family_model(tmp_path_factory.mktemp("sparse"), request.param, n_group=2, topk_group=1)
    write_export(model, found := tmp_path_factory.mktemp("export"))
    with live_export(found, max_length=128) as server:
        yield model, server


def test_an_export_of_standard_operators_is_served(real_server, chat_models, tmp_path):
    """The same texts and scores, prompts in pieces and several texts at once."""
    same_texts(real_server, chat_models["glm4-0414"], tmp_path)


def test_a_model_with_experts_is_served(sparse_server, tmp_path):
    """Its experts in ONNX Runtime's operator, and all of them on every token in standard ones."""
    same_texts(sparse_server[1], sparse_server[0], tmp_path)


def same_texts(server_of_own, model, folder):
    write_export(model, folder, opset=17)
    body = {"prompt": [PROMPT, PROMPT[:4]], "max_tokens": 12, "temperature": 1.0, "seed": 11, "n": 2, "echo": True}
    body |= {"logprobs": 1, "return_token_ids": True}
    with live_export(folder, max_length=128) as server:
        found, wanted = (choices(each.post(COMPLETIONS, body)) for each in (server, server_of_own))
    assert [choice["text"] for choice in found] == [choice["text"] for choice in wanted] and len(found) == 4
    scores = [[choice["logprobs"]["token_logprobs"][1:] for choice in side] for side in (found, wanted)]
    for ours, theirs in zip(*scores, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_04_an_interrupted_turn_is_in_the_cache(real_server):
    """What a cancelled text has read is reused by the next prompt that begins alike."""
    prompt = list(range(5, 45))
    stream = real_server.open_stream(
        COMPLETIONS, {"prompt": prompt, "max_tokens": 60, "ignore_eos": True, "stream": True}
    )
    read_some(stream)
    stream.close()
    wait_until(lambda: real_server.running == 0)
    found = real_server.post(COMPLETIONS, {"prompt": [*prompt, 7], "max_tokens": 1})[1]
    assert found["usage"]["prompt_tokens_details"]["cached_tokens"] >= 39


def test_17_a_seed_needs_no_neighbour(real_server):
    """The same seed gives the same text, alone and among others, and n texts are those of their own numbers."""
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 12, "temperature": 1.0, "seed": 11, "ignore_eos": True}
    body["return_token_ids"] = True

    def ids(answer) -> list:
        return [choice["token_ids"] for choice in answer[1]["choices"]]

    alone = ids(real_server.post(COMPLETIONS, body | {"n": 3}))
    assert len({*map(tuple, alone)}) == 3
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(real_server.post, COMPLETIONS, body | {"seed": seed}) for seed in range(5)]
        together = ids(real_server.post(COMPLETIONS, body | {"n": 3}))
        assert all(other.result()[0] == 200 for other in others)
    assert together == alone
    assert ids(real_server.post(COMPLETIONS, body)) == alone[:1]
    unseeded = {tuple(ids(real_server.post(COMPLETIONS, body | {"seed": None}))[0]) for _ in range(3)}
    assert len(unseeded) == 3


def test_scores_of_a_prompt_are_those_of_the_same_text_written(real_server):
    """Greedy and with n tokens told: what is written now is a prompt afterwards, with the same figures."""
    options = {"temperature": 0, "logprobs": 3, "ignore_eos": True, "return_token_ids": True}
    [written] = choices(real_server.post(COMPLETIONS, {"prompt": PROMPT, "max_tokens": 8} | options))
    whole = [*PROMPT, *written["token_ids"]]
    [read] = choices(real_server.post(COMPLETIONS, {"prompt": whole, "max_tokens": 1, "echo": True} | options))
    told = read["logprobs"]["token_logprobs"]
    assert len(told) == len(whole) + 1
    assert told[len(PROMPT) : -1] == pytest.approx(written["logprobs"]["token_logprobs"], abs=1e-4)
    greedy = [
        value == max(top.values()) for value, top in zip(told[1:], read["logprobs"]["top_logprobs"][1:], strict=True)
    ]
    assert all(greedy[len(PROMPT) - 1 :]) and not all(greedy)


def test_a_prompt_longer_than_a_piece_is_scored_whole(real_server):
    ids = [*range(5, 105)]
    body = {"echo": True, "logprobs": 1, "max_tokens": 0}
    [whole] = choices(real_server.post(COMPLETIONS, {"prompt": ids} | body))
    [part] = choices(real_server.post(COMPLETIONS, {"prompt": ids[:40]} | body))
    assert len(whole["logprobs"]["tokens"]) == 100
    assert whole["logprobs"]["token_logprobs"][1:40] == pytest.approx(part["logprobs"]["token_logprobs"][1:], abs=1e-4)


def test_several_texts_of_a_scored_prompt_read_it_once(real_server):
    """Each is told the scores that the first one read, whole and streamed."""

    def read() -> float:
        looked_up, found = counters(real_server, "prefix_cache_queries", "prefix_cache_hits")
        return looked_up - found

    body = {"prompt": [*range(5, 105)], "echo": True, "logprobs": 2, "max_tokens": 3, "seed": 4}
    body |= {"return_token_ids": True, "add_special_tokens": False}
    [alone], before = choices(real_server.post(COMPLETIONS, body)), read()
    several = choices(real_server.post(COMPLETIONS, body | {"n": 3}))
    assert read() - before == 100 + 2
    assert (
        several[0]["token_ids"] == alone["token_ids"] and len({*map(str, (each["token_ids"] for each in several))}) > 1
    )
    streamed = [[], [], []]
    for event in real_server.chunks(COMPLETIONS, body | {"n": 3}):
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["logprobs"]["token_logprobs"]
    for choice, scores in zip(several, streamed, strict=True):
        told = choice["logprobs"]["token_logprobs"]
        assert told[1:100] == pytest.approx(alone["logprobs"]["token_logprobs"][1:100], abs=1e-4)
        assert told[1:] == pytest.approx(scores[1:], abs=1e-4) and len(told) == 100 + len(choice["token_ids"])
    scored = choices(real_server.post(COMPLETIONS, body | {"n": 2, "max_tokens": 0}))
    assert [len(choice["logprobs"]["tokens"]) for choice in scored] == [100, 100]


def counters(server, *names: str) -> list[float]:
    text = server.send("GET", "/metrics")[2].decode()
    return [float(re.search(rf"^glm:{name}_total{{.*}} (\S+)$", text, re.M)[1]) for name in names]


def drafts(server) -> list[float]:
    """Drafts, tokens of them, and those that were right, of a server's metrics."""
    return counters(server, *(f"spec_decode_num_{name}" for name in ("drafts", "draft_tokens", "accepted_tokens")))


def test_prompt_lookup_changes_no_text(folder, real_server):
    """Greedy, drawn, with penalties, streamed; what is guessed is counted."""
    piece = [5, 9, 33, 60, 7, 21]
    body = {"prompt": [*piece, *piece, *piece[:3]], "max_tokens": 40, "ignore_eos": True, "return_token_ids": True}
    ways = [{"temperature": 0}, {"temperature": 0.3, "seed": 5}, {"temperature": 0, "frequency_penalty": 0.5}]
    ways += [{"temperature": 0, "logit_bias": {"77": 100}, "logprobs": 2}]  # it is guessed right
    with live_export(folder, max_length=128, prompt_lookup=5) as guessing:
        for way in ways:
            [plain], [found] = (choices(each.post(COMPLETIONS, body | way)) for each in (real_server, guessing))
            told, wanted = found.pop("logprobs"), plain.pop("logprobs")
            assert found == plain
            assert (told and told["token_logprobs"]) == (wanted and pytest.approx(wanted["token_logprobs"], abs=1e-4))
            chunks = guessing.chunks(COMPLETIONS, body | way)
            assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == plain["text"]
        found, right, accepted = drafts(guessing)
    assert 0 < found < accepted <= right and drafts(real_server) == [0, 0, 0]


def test_a_read_can_be_interrupted(folder):
    """From another thread; the cache is read again, and gives what it would have given."""
    runtime, ids = OnnxStepRuntime(folder / "glm.onnx", 1024, threads=1), [*range(5, 517)]
    cache, ended = runtime.new_cache(1, 512), threading.Event()

    def interrupting():
        while not ended.wait(0.001):
            runtime.interrupt()

    arguments = cache, 0, ids, np.arange(512)[None], 0, 0
    wanted = runtime.prefill(*arguments).copy()
    thread = threading.Thread(target=interrupting)
    thread.start()
    with pytest.raises(InterruptedReadError, match="the reading of a prompt was interrupted"):
        for _ in range(200):  # on a busy machine a read may be over before the thread has its turn
            runtime.prefill(*arguments)
    ended.set()
    thread.join()
    runtime.interrupt()  # nothing is under way
    assert (runtime.prefill(*arguments) == wanted).all()


def test_json_of_a_schema(real_server):
    """Random weights write valid JSON, whatever they are asked."""
    place = {"type": "object", "properties": {"kind": {"enum": ["桥", "塔"]}, "tall": {"type": "boolean"}}}
    place |= {"required": ["kind", "tall"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": place}}
    body = {"messages": [{"role": "user", "content": "?"}], "response_format": wanted, "seed": 3, "max_tokens": 100}
    [choice] = choices(real_server.post(CHAT, body))
    found = json.loads(choice["message"]["content"])
    assert choice["finish_reason"] == "stop" and found["kind"] in ("桥", "塔") and isinstance(found["tall"], bool)


def test_a_bias_is_felt(real_server):
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    [choice] = choices(real_server.post(COMPLETIONS, body | {"logit_bias": {"77": 100}}))
    assert choice["token_ids"] == [77, 77, 77]
    [choice] = choices(real_server.post(COMPLETIONS, body | {"logit_bias": {"77": 100}, "frequency_penalty": 2}))
    assert choice["token_ids"] == [77, 77, 77]
    [stopped] = choices(real_server.post(COMPLETIONS, body | {"logit_bias": {"77": 100}, "stop_token_ids": [77]}))
    assert (stopped["token_ids"], stopped["finish_reason"], stopped["stop_reason"]) == ([77], "stop", 77)


def test_free_memory_is_looked_up_once(folder, monkeypatch):
    """It is less the next time, and the engine's limit and the columns that fit it must agree."""
    limits = iter([100_000, 50_000])
    monkeypatch.setattr(FoundExport, "cache_limit", property(lambda self: next(limits)))
    with live_export(folder) as server:
        assert 50_000 < server.service.engine.info.cache_bytes <= 100_000
    assert list(limits) == [50_000]


def test_beams_through_http(real_server):
    body = {"prompt": PROMPT, "max_tokens": 5, "num_beams": 3, "ignore_eos": True, "return_token_ids": True}
    [whole] = choices(real_server.post(COMPLETIONS, body))
    assert len(whole["token_ids"]) == 5
    status, found = real_server.post(COMPLETIONS, body | {"num_beams": 9})
    assert status == 400 and "num_beams is 9, and the cache has 8 slot(s)" in found["error"]["message"]
    [cut] = choices(real_server.post(COMPLETIONS, body | {"stop": whole["text"][-1]}))
    assert cut["text"] == whole["text"][: whole["text"].index(whole["text"][-1])]
    chunks = real_server.chunks(COMPLETIONS, body)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]

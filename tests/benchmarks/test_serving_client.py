"""The load client: its arithmetic on known times, its timetable on a simulated clock, and the command on a server."""

import asyncio
import json

import numpy as np
import pytest
from scripted_server import Script, scripted

from benchmarks.serving_client import limits_of, main, random_ids, random_words
from benchmarks.serving_load import Driver, Load, Outcome
from benchmarks.serving_times import Reply, pause_of, summarize
from glm.errors import UsageError


def reply(sent: float, chunks: list[float], tokens: int, ended: float | None = None) -> Reply:
    return Reply(sent, chunks, chunks[-1] if ended is None else ended, prompt_tokens=10, output_tokens=tokens)


def test_times_and_throughputs_are_vllms():
    # 6 tokens in three chunks: a gap is not a token's time.
    found = summarize([reply(1.0, [1.5, 1.7, 2.0], 6), reply(2.0, [2.1, 3.1], 2, ended=3.5)])
    assert found["requests"] == 2 and found["failed"] == 0
    assert found["seconds"] == pytest.approx(2.5)
    assert found["request_throughput"] == pytest.approx(2 / 2.5)
    assert found["output_throughput"] == pytest.approx(8 / 2.5) and found["prompt_tokens"] == 20
    assert found["ttft"]["mean"] == pytest.approx((0.5 + 0.1) / 2)
    assert found["tpot"]["mean"] == pytest.approx((0.5 / 5 + 1.4 / 1) / 2)
    assert found["e2el"]["p50"] == pytest.approx((1.0 + 1.5) / 2)
    # Gaps of all answers together: 0.2, 0.3, 1.0.
    assert found["itl"]["p50"] == pytest.approx(0.3) and found["itl"]["mean"] == pytest.approx(0.5)
    assert found["itl"]["p99"] == pytest.approx(np.percentile([0.2, 0.3, 1.0], 99))


def test_an_answer_of_one_token_has_no_time_a_token():
    assert "tpot" not in summarize([reply(0.0, [1.0], 1)]) and "itl" not in summarize([reply(0.0, [1.0], 1)])


def test_goodput_counts_the_requests_that_meet_every_limit():
    replies = [reply(0.0, [0.1, 0.2], 2), reply(0.0, [0.3, 0.4], 2), reply(0.0, [0.1, 0.9, 2.0], 3)]
    assert summarize(replies, {"ttft": 0.2})["goodput"] == pytest.approx(2 / 2.0)
    assert summarize(replies, {"ttft": 0.2, "tpot": 0.5})["goodput"] == pytest.approx(1 / 2.0)
    assert "goodput" not in summarize(replies)


def test_failed_requests_are_counted_and_their_reason_is_kept():
    found = summarize([Reply(0.0, error="500: no"), reply(1.0, [2.0, 3.0], 4)])
    assert (found["requests"], found["failed"], found["error"]) == (1, 1, "500: no")
    assert found["request_throughput"] == pytest.approx(1 / 3)  # what it waited for counts
    assert summarize([Reply(0.0, error="x")]) == {"requests": 0, "failed": 1, "error": "x"}


def test_a_pause_is_what_touches_the_reading_of_a_long_prompt():
    streams = [reply(0.0, [1.0, 1.1, 1.2, 2.1, 2.2], 5), reply(1.5, [1.9, 2.9, 3.0], 3)]
    # It is read from 1.25 to 2.0.
    found = pause_of(streams, [reply(1.25, [2.0, 2.1], 2)])
    # 1.2 … 2.1 and 1.9 … 2.9 touch it; 0.1, 0.1, 0.1, 0.1 lie outside.
    assert found.longest == pytest.approx(1.0) and found.usual == pytest.approx(0.1)
    assert found.short_ttft == pytest.approx(0.4) and found.short_ttft_outside == pytest.approx(1.0)
    assert found.long_ttft == pytest.approx(0.75)
    assert pause_of(streams, [Reply(1.0, error="x")]) is None and pause_of([], [reply(1.0, [2.0], 1)]) is None


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Whose time jumps to what is next."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


class Simulated:
    """A server that takes a second a request, and more for longer prompts."""

    def __init__(self):
        self.open, self.most, self.sent = 0, 0, []

    async def send(self, prompt: list[int], tokens: int) -> Reply:
        clock = asyncio.get_running_loop().time
        self.open += 1
        self.most = max(self.most, self.open)
        found = Reply(clock(), output_tokens=tokens)
        self.sent.append((found.sent, len(prompt)))
        for _ in range(tokens):
            await asyncio.sleep(len(prompt) / tokens)
            found.chunks.append(clock())
        found.ended = clock()
        self.open -= 1
        return found


def simulate(load: Load, long: list | None = None, length: int = 1) -> tuple[Outcome, Simulated]:
    server, loop = Simulated(), SimulatedLoop()
    driver = Driver(server.send, load, [[0] * length] * load.requests, long or [])
    try:
        return loop.run_until_complete(driver.run()), server
    finally:
        loop.close()


def test_clients_of_a_closed_loop_ask_again_once_they_are_answered():
    outcome, server = simulate(Load(10, clients=3))
    assert server.most == 3 and len(outcome.replies) == 10
    assert [round(moment) for moment, _ in server.sent] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_requests_of_a_rate_come_whether_others_are_answered_or_not():
    load = Load(200, rate=20.0, seed=3)
    outcome, server = simulate(load)
    moments = [moment for moment, _ in server.sent]
    assert moments == pytest.approx(load.arrivals().tolist()) and moments[-1] == pytest.approx(200 / 20)
    gaps = np.diff(moments)
    assert 0.8 < gaps.std() / gaps.mean() < 1.2  # as many as the mean: exponential
    assert 12 < server.most < 45 and len(outcome.replies) == 200  # 20 a second, for a second each
    _, bounded = simulate(Load(200, rate=20.0, clients=5))
    assert bounded.most == 5
    even = np.diff(Load(200, rate=20.0, burstiness=100.0).arrivals())
    assert even.std() / even.mean() < 0.15


def test_long_prompts_come_once_every_client_is_answered_and_are_told_apart():
    outcome, server = simulate(Load(12, clients=2, long_requests=2), [[0] * 2, [0] * 3])
    assert [(moment, length) for moment, length in server.sent if length > 1] == [(1.0, 2), (pytest.approx(3.0), 3)]
    assert len(outcome.replies) == 12 and len(outcome.long) == 2
    found = outcome.summary()
    assert found["requests"] == 12 and found["pause"]["usual"] == pytest.approx(1 / 64)
    assert simulate(Load(2, clients=2), [[0] * 2])[0].long == []  # nobody writes any more


@pytest.mark.parametrize("wrong", [{}, {"clients": 0}, {"rate": -1.0}, {"clients": 1, "tokens": 0}])
def test_a_load_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError):
        Load(4, **wrong)


def test_prompts_are_as_long_as_asked_and_the_same_for_one_seed():
    ids = random_ids((5, 50), 3, 7, seed=1)
    assert np.shape(ids) == (3, 7) and np.min(ids) >= 5 and np.max(ids) < 50
    assert ids == random_ids((5, 50), 3, 7, seed=1) != random_ids((5, 50), 3, 7, seed=2)
    assert [len(text.split()) for text in random_words(2, 9, seed=1)] == [9, 9]


def test_limits_are_milliseconds():
    assert limits_of(["ttft:500", "e2el:1e4"]) == {"ttft": 0.5, "e2el": 10.0}


def run(url: str, tmp_path, *words: str) -> tuple[int, dict]:
    output = tmp_path / "found.json"
    arguments = ["--base_url", url, "--output", str(output), "--tokens", "8", *words]
    return main(arguments), json.loads(output.read_text()) if output.exists() else {}


def test_the_command_measures_a_server(tmp_path, capsys):
    script = Script(first=0.05, gap=0.03, a_chunk=2)
    with scripted(script) as url:
        words = ("--clients", "2", "--requests", "6", "--prompt_tokens", "5", "--goodput", "ttft:5000")
        code, found = run(f"{url}/v1/", tmp_path, *words, "--api_key", "k", "--ignore_eos", "--extra", '{"top_k": 3}')
    assert code == 0 and found["requests"] == 6 and found["output_tokens"] == 48 and found["model"] == "scripted"
    # Four chunks of two tokens; a loaded machine can only be slower than the timetable.
    assert 0.05 <= found["ttft"]["p50"] < 1 and 0.03 <= found["itl"]["p50"] < 1
    assert 3 * 0.03 / 7 <= found["tpot"]["p50"] < 1
    assert 3 * (0.05 + 3 * 0.03) <= found["seconds"] < 10
    assert found["goodput"] == found["request_throughput"] == pytest.approx(6 / found["seconds"])
    body = script.bodies[0]
    assert len(body["prompt"].split()) == 5 and body["ignore_eos"] and body["top_k"] == 3 and body["max_tokens"] == 8
    assert set(script.keys) == {"Bearer k"}
    out = capsys.readouterr().out
    assert "output tokens/s" in out and "TTFT p99, ms" in out and "goodput" in out


def test_requests_that_wait_for_others_have_it_in_their_first_token(tmp_path):
    with scripted(Script(first=0.02, gap=0.02, one_by_one=True)) as url:
        _, found = run(url, tmp_path, "--clients", "4", "--requests", "4")
    # Three others of 0.02 + 3 · 0.02 stand before the last one.
    assert found["ttft"]["p99"] >= 3 * 0.08 and found["itl"]["p50"] < 0.08


def test_chats_rates_and_long_prompts(tmp_path, capsys):
    script = Script(first=0.01, gap=0.01)
    with scripted(script) as url:
        words = ("--chat", "--rate", "40", "--requests", "10", "--long_prompt", "30", "--long_requests", "1")
        code, found = run(url, tmp_path, *words)
    assert code == 0 and found["requests"] == 10 and found["output_tokens"] == 80
    assert {len(body["messages"][0]["content"].split()) for body in script.bodies} == {128, 30}
    # The chunk with the role alone is no text: four of two tokens are.
    assert found["ttft"]["p50"] >= 0.01 and found["load"]["rate"] == 40
    assert ("pause" in found) == ("longest gap" in capsys.readouterr().out)


def test_ids_and_files_are_prompts(tmp_path):
    script, file = Script(first=0.0, gap=0.0), tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\n")
    with scripted(script) as url:
        run(url, tmp_path, "--requests", "3", "--input_file", str(file))
        run(url, tmp_path, "--requests", "2", "--vocabulary", "5", "9", "--prompt_tokens", "4")
    assert [body["prompt"] for body in script.bodies[:3]] == ["one", "two", "one"]
    assert all(len(body["prompt"]) == 4 and set(body["prompt"]) <= {5, 6, 7, 8} for body in script.bodies[3:])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(status=503), "503"),
        (Script(0.0, 0.0, usage=False), "usage"),
        (Script(0.0, 0.0, done=False), "[DONE]"),
        (Script(0.0, 0.0, line=b"data: {no\n\n"), "OpenAI's interface"),
        (Script(0.0, 0.0, line=b'data: {"error": {"message": "boom"}}\n\n'), "boom"),
        (Script(first=2.0), "Timeout"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_with_its_reason(tmp_path, capsys, script, reason):
    with scripted(script) as url:
        code, found = run(url, tmp_path, "--requests", "2", "--timeout", "0.5")
    assert code == 1 and found["failed"] == 2 and reason in found["error"]
    assert "FAILED: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--goodput", "itl:3"], 2, "KIND:MILLISECONDS"),
        (["--extra", "[]"], 2, "JSON object"),
        (["--chat", "--vocabulary", "1", "9"], 2, "leave one out"),
        (["--requests", "0"], 2, "above 0"),
        ([], 1, "127.0.0.1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, capsys, words, code, said):
    assert run("http://127.0.0.1:9", tmp_path, *words) == (code, {})
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error

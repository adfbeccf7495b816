"""The engine in a process of its own: it is killed, it cannot be opened, it is told to end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from live_server import DATA, Live, chat, service_of, wait_until
from simulated_core import SimulatedEngine

from glm.serving.engine_client import DEAD, EngineClient

LAUNCHER = """
import sys, time
from glm.serving.engine_client import EngineClient

def opener():
    print("opening", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    client = EngineClient(opener)
    client.launch()
    sys.stdin.read()
"""
CHAT = "/v1/chat/completions"


def in_process(**options):
    """A service whose engine has a process of its own."""
    service = service_of()
    engine = EngineClient(SimulatedEngine(str(DATA / "glm4-0414-tiny"), **options))
    service.__init__(service.model, engine, service.settings)
    return service


@pytest.mark.process
def test_texts_come_from_the_process():
    with Live(in_process()) as server:
        assert server.service.engine.process_id not in (None, os.getpid())
        status, found = server.post(CHAT, chat("say: 你好😀"))
        assert status == 200 and found["choices"][0]["message"]["content"] == "你好😀"
        chunks = server.chunks(CHAT, chat("say: 你好😀"))
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "你好😀"
        assert server.get("/health")[0] == 200


@pytest.mark.process
def test_14_a_killed_engine_is_said_so_and_the_server_ends():
    """Who waits gets an error, streaming or not, and nobody believes that the server is well."""
    with Live(in_process(seconds=0.05)) as server:
        answers = []

        def ask(streams: bool) -> None:
            answers.append(server.send("POST", CHAT, chat("say: endless", stream=streams)))

        waiting = [threading.Thread(target=ask, args=(streams,)) for streams in (True, False)]
        for thread in waiting:
            thread.start()
        wait_until(lambda: server.running == 2)
        os.kill(server.service.engine.process_id, signal.SIGKILL)
        for thread in waiting:
            thread.join(60)
        wait_until(lambda: server.service.engine.state == DEAD)
        assert server.server.should_exit
    (_, _, whole), (_, _, stream) = sorted(answers, key=lambda answer: answer[0], reverse=True)
    assert json.loads(whole)["error"]["code"] == "engine_dead" and answers[0][0] + answers[1][0] == 703
    events = stream.decode().split("\n\n")
    assert "its process was killed" in json.loads(events[-3].removeprefix("data: "))["error"]["message"]
    assert events[-2] == "data: [DONE]"
    assert str(server.service.engine.error) == "the engine has ended: its process was killed"


@pytest.mark.process
def test_an_engine_that_does_not_open():
    service = in_process(error="no such graph")
    server = Live(service)
    server._thread.start()
    wait_until(lambda: service.engine.state == DEAD, 60)
    server._thread.join(60)
    assert not server._thread.is_alive() and str(service.engine.error) == "RuntimeError: no such graph"


@pytest.mark.process
def test_who_is_killed_while_the_engine_opens_leaves_none_behind(tmp_path):
    """The engine writes into this test's pipe as well, which ends with the last of them."""
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(DATA.parent)}
    with subprocess.Popen([sys.executable, script], env=environment, **pipes) as parent:
        assert parent.stdout.readline() == "opening\n"
        parent.kill()
        assert parent.communicate(timeout=60)[0] == ""


@pytest.mark.process
def test_an_engine_that_opens_is_ended_at_once():
    service = in_process(opening=600)
    server = Live(service)
    server._thread.start()
    wait_until(lambda: server.server.started, 60)
    begun = time.monotonic()
    server.server.should_exit = True
    server._thread.join(60)
    assert not server._thread.is_alive() and time.monotonic() - begun < 4
    assert not service.engine._process.is_alive()


def test_draining_finishes_what_was_begun_and_takes_nothing_new():
    """What SIGTERM does, but for the signal: tests/scripts/test_serve_script.py sends one."""
    with Live(service_of(seconds=0.03), drain_seconds=30) as server:
        answers = []
        asked = chat("say: twenty tokens or so, which take their time")
        thread = threading.Thread(target=lambda: answers.append(server.post(CHAT, asked)))
        thread.start()
        wait_until(lambda: server.running == 1)
        server.server.handle_exit(signal.SIGTERM, None)
        status, found = server.post(CHAT, chat())
        assert status == 503 and found["error"]["code"] == "shutting_down"
        assert server.get("/ready")[0] == 503
        thread.join(60)
        assert answers[0][0] == 200 and answers[0][1]["choices"][0]["finish_reason"] == "stop"
        wait_until(lambda: server.server.should_exit)


def test_a_prompt_that_is_still_encoded_at_the_end_is_told_so(monkeypatch):
    """No text of it is open yet, so nobody waits for it; it must not begin one that would be cut off."""
    with Live(service_of(seconds=0.1)) as server:
        model, entered, goes_on = server.service.model, threading.Event(), threading.Event()
        chat_prompt = model.chat_prompt

        def slow_prompt(*given):
            entered.set()
            assert goes_on.wait(60)
            return chat_prompt(*given)

        monkeypatch.setattr(model, "chat_prompt", slow_prompt)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(server.post(CHAT, chat("say: endless"))))
        thread.start()
        assert entered.wait(60)
        server.server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: server.server.should_exit)
        goes_on.set()
        thread.join(60)
    [(status, found)] = answers
    assert status == 503 and found["error"]["code"] == "shutting_down"


def test_what_is_not_finished_in_time_is_said_so():
    with Live(service_of(seconds=0.05), drain_seconds=0.2) as server:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(server.events(CHAT, chat("say: endless"))))
        thread.start()
        wait_until(lambda: server.running == 1)
        server.server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
    assert json.loads(found[-2])["error"]["code"] == "shutting_down" and found[-1] == "[DONE]"

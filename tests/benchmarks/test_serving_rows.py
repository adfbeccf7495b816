"""Servers in `python -m benchmarks`: commands, turns, rows, and what docs say. No server of a peer is started."""

import json
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from scripted_server import Script, scripted

from benchmarks import serving
from benchmarks.docs import page
from benchmarks.plan import Act, Measured, Plan, execute
from benchmarks.prepare import prepare
from benchmarks.processes import Environment
from benchmarks.report import build_report, number
from benchmarks.rows import ROWS
from benchmarks.servers import Server, answers, columns_of, command_of, free_port
from benchmarks.serving_client import main
from benchmarks.settings import LONGEST_PAUSE, QUICK_SHAPES, SERVED_RUNS, SHAPES, SIDES, TASKS, Traffic
from benchmarks.sides.transformers_server import handler_of
from benchmarks.values import build_row
from benchmarks.vocabulary import gguf_tokens, pieces, write_vocabulary
from glm.tokenizers import GLMTokenizer

pytestmark = pytest.mark.process

START = {"started": "2030-01-02T03:04:05+00:00", "seconds": 61.0, "command": "python -m benchmarks"}
TIMES = {"mean": 0.2, "p50": 0.1, "p99": 0.3}


def run(tokens: float = 100.0, seconds: float = 5.0, pause: dict | None = None) -> dict:
    found = {"requests": 4, "failed": 0, "seconds": seconds, "output_throughput": tokens, "request_throughput": 2.5}
    return found | dict.fromkeys(("ttft", "tpot", "itl"), TIMES) | ({"pause": pause} if pause else {})


def quiet(what: str, steps: int) -> None:
    """No progress bar."""


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "made", Path("/peers/bin/python"), tmp_path / "log", quick=False)


def commands(environment) -> dict[str, list[str]]:
    folder = environment.directory / "glm4"
    return {name: command_of(environment, SIDES[name], folder, "glm4", 81) for name in SIDES if "served" in name}


def test_every_server_has_the_same_rows_and_columns(environment):
    found = commands(environment)
    columns = columns_of(SHAPES["glm4"])
    assert columns == 2304 >= SHAPES["glm4"].long_prompt + SHAPES["glm4"].new_tokens
    ours, llama, float_llama = (found[f"served-{name}"] for name in ("int4", "llama-q4_0", "llama-f32"))
    assert ours[:2] == [sys.executable, "serve_generation.py"] and "onnx-int4" in ours[3]
    assert ours[-6:] == ["--max_num_seqs", "16", "--max_model_len", "2304", "--port", "81"]
    assert llama[0] == "/peers/bin/llama-server" and "q4_0.gguf" in llama[2]
    assert llama[llama.index("--parallel") + 1] == "16" and llama[llama.index("--ctx-size") + 1] == str(16 * 2304)
    # Its cache is float32 beside float32 weights alone, as in its other rows.
    assert float_llama[-6:] == ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
    assert "--cache-type-k" not in llama and found["served-transformers"][0] == "/peers/bin/python"


def test_a_vocabulary_has_a_text_for_every_token(tmp_path):
    write_vocabulary(tmp_path, 320)
    tokenizer = GLMTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 320 == len(gguf_tokens(320)) == len(set(gguf_tokens(320)))
    assert tokenizer.text_of([256, 257], skip_special_tokens=True) == " w0 w1"
    assert gguf_tokens(320)[256] == "Ġw0" and gguf_tokens(320)[65] == "A" and len(pieces(320)) == 306


def test_a_server_is_ready_when_it_says_so_and_ends_with_its_owner(tmp_path):
    port, log = free_port(), tmp_path / "log"
    program = (
        "import sys, time, http.server as h\ntime.sleep(0.3)\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/ready' else 503); self.end_headers()\n"
        "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    server = Server([sys.executable, "-c", program, str(port)], port, "/ready", log, {})
    assert server.ready_seconds > 0.3 and answers(port, "/ready") and not answers(port, "/health")
    server.close()
    assert server.process.returncode is not None and not answers(port, "/ready")


@pytest.mark.parametrize(
    ("command", "reason"),
    [(["/none/llama-server"], "run make bench"), ([sys.executable, "-c", "exit(3)"], "code 3")],
)
def test_a_server_that_does_not_start_says_why(tmp_path, command, reason):
    with pytest.raises(RuntimeError, match=reason):
        Server(command, free_port(), "/ready", tmp_path / "log", {})


def test_a_load_is_the_same_for_all_sides_and_another_one_in_each_round(monkeypatch):
    script = Script(first=0.0, gap=0.0)
    shape = QUICK_SHAPES["glm4"]
    with scripted(script) as url:
        server = type("Opened", (), {"url": url})()
        for side, seed in (("served-fp32", 3), ("served-llama-f32", 3), ("served-transformers", 4)):
            found = serving.bear(server, SIDES[side], shape, Traffic(2, (4, 2), long_requests=0), seed)
            assert found["output_tokens"] == found["requests"] * shape.new_tokens
    prompts = [tuple(body["prompt"]) for body in script.bodies]
    assert set(prompts[:4]) == set(prompts[4:8]) and not set(prompts[8:]) & set(prompts) - set(prompts[8:])
    assert len(prompts) == 4 + 4 + 2 and {len(prompt) for prompt in prompts} == {shape.prompt}
    assert all(body["ignore_eos"] and body["max_tokens"] == shape.new_tokens for body in script.bodies)


def test_a_load_that_fails_is_an_error():
    with scripted(Script(status=503)) as url:
        server = type("Opened", (), {"url": url})()
        found = serving.bear(server, SIDES["served-fp32"], QUICK_SHAPES["glm4"], Traffic(1, (2, 2)), seed=1)
    assert "2 of 2 requests failed, the first: 503" in found["error"]


def test_a_server_that_died_is_an_error_of_its_round():
    server = type("Opened", (), {"url": f"http://127.0.0.1:{free_port()}"})()
    found = serving.bear(server, SIDES["served-fp32"], QUICK_SHAPES["glm4"], Traffic(1, (2, 2)), seed=1)
    assert found["error"].startswith("the server did not answer: ClientConnectorError: ")


class Opened:
    closed = 0

    def __init__(self):
        self.process = type("Process", (), {"args": ["serve"]})()

    def close(self):
        Opened.closed += 1


def test_servers_take_turns_and_a_slow_one_has_one_run(environment, monkeypatch):
    asked = []

    def bear(server, side, shape, traffic, seed):
        asked.append((side.title, traffic.clients, seed))
        return run(seconds=99.0 if side.one_by_one else 1.0)

    monkeypatch.setattr(serving, "bear", bear)
    monkeypatch.setattr(serving, "SETTLE", 0.0)
    monkeypatch.setattr(serving, "open_server", lambda environment, side, shape: Opened())
    Opened.closed, measured = 0, Measured()
    sides = ("served-fp32", "served-transformers")
    serving.serve(Plan((), 5), Act("glm4", {"serve-4": sides}), environment, measured, quiet)
    counts = {side: len(measured.runs["glm4", "serve-4", side]) for side in sides}
    assert counts == {"served-fp32": SERVED_RUNS, "served-transformers": 1} and Opened.closed == 2
    counted = [each for each in asked if each[1] == 4]
    assert [title for title, _, _ in counted[:2]] == [SIDES[side].title for side in sides]
    assert counted[0][2] == counted[1][2] and len({seed for *_, seed in counted}) == SERVED_RUNS


def test_a_peer_that_is_not_there_leaves_the_others_their_runs(environment, monkeypatch):
    def open_server(environment, side, shape):
        if "llama" in side:
            raise RuntimeError("run make bench")
        return Opened()

    monkeypatch.setattr(serving, "bear", lambda *_, **__: run())
    monkeypatch.setattr(serving, "open_server", open_server)
    monkeypatch.setattr(serving, "SETTLE", 0.0)
    measured = Measured()
    sides = ("served-fp32", "served-llama-f32")
    serving.serve(Plan((), 5), Act("glm4", {"serve-1": sides}), environment, measured, quiet)
    assert measured.runs["glm4", "serve-1", "served-llama-f32"] == [{"error": "run make bench"}]
    assert len(measured.runs["glm4", "serve-1", "served-fp32"]) == SERVED_RUNS


def measured(task: str, sides: dict[str, list[dict]]) -> Measured:
    found = Measured(prepared={"glm4": {}, "quickstart": {}})
    found.runs = {(shape, task, side): runs for side, runs in sides.items() for shape in ("glm4", "quickstart")}
    return found


def test_throughputs_and_first_tokens_are_rows():
    sides = {"served-fp32": [run(720.0)] * 2, "served-transformers": [run(100.0)], "served-llama-f32": [run(700.0)]}
    row = build_row("serve-16", Plan(("serve-16",), 5), measured("serve-16", sides))
    assert row["cells"]["served-fp32"]["median"] == 720.0
    assert [(aim["ratio"], aim["met"]) for aim in row["aims"]] == [(7.2, True), (pytest.approx(720 / 700), False)]
    row = build_row("poisson-3", Plan(("poisson-3",), 5), measured("poisson-3", sides))
    assert row["cells"]["served-fp32"]["median"] == pytest.approx(100.0) and row["small_is_better"]


@pytest.mark.parametrize(
    ("usual", "longest", "limit", "met"),
    [
        (0.02, 0.29, LONGEST_PAUSE, True),
        (0.02, 0.31, LONGEST_PAUSE, False),
        (0.2, 0.49, 0.5, True),
        (0.2, 0.51, 0.5, False),
    ],
)
def test_a_pause_may_be_so_long_or_so_many_of_the_usual_gaps(usual, longest, limit, met):
    pause = {"usual": usual, "longest": longest, "short_ttft": None, "short_ttft_outside": None, "long_ttft": 1.0}
    found = measured("long-prompt", {"served-fp32": [run(pause=pause)], "served-llama-f32": [run(pause=pause)]})
    row = build_row("long-prompt", Plan(("long-prompt",), 5), found)
    assert row["cells"]["pause"]["median"] == pytest.approx(1e3 * limit)
    assert row["aims"][0]["met"] is met and row["aims"][1]["ratio"] == pytest.approx(1)
    text = page(START | build_report(Plan(("long-prompt",), 5), found))
    assert f"{number(1e3 * longest, 'ms')} ({number(1e3 * usual, 'ms')})" in text


@pytest.mark.parametrize(("seconds", "met"), [(1.9, True), (2.1, False)])
def test_a_server_is_ready_in_time_or_not(seconds, met):
    found = measured("ready", {"served-fp32": [{"seconds": seconds}]})
    row = build_row("ready-quickstart", Plan(("ready-quickstart",), 5), found)
    assert row["aims"][0]["met"] is met and row["cells"]["start"]["median"] == 2.0


def test_the_page_has_every_figure_of_a_load():
    found = measured("serve-16", {"served-fp32": [run(720.0)] * 3, "served-llama-f32": [{"error": "gone"}]})
    report = json.loads(json.dumps(START | build_report(Plan(("serve-16",), 5), found), default=dict))
    text = page(report)
    line = next(line for line in text.splitlines() if line.startswith("| 16 clients |"))
    assert "| 2.50 | 720.0 | 100.0, 300.0 | 100.0, 300.0 | 100.0, 300.0 |" in line and line.endswith("| 3 |")
    assert "gone" in text and "Servers under load" not in page(report | {"measurements": []})


def test_rows_of_servers_name_tasks_that_have_their_traffic():
    for row in ROWS.values():
        task = TASKS[row.task]
        assert (task.traffic is not None) == (task.kind == "serve")
        if task.traffic:
            assert task.traffic.requests[1] <= task.traffic.requests[0] and bool(task.traffic.clients) != bool(
                task.traffic.rate
            )


def test_transformers_answer_one_after_another(tmp_path):
    class Model:
        """Tells tokens as `generate` would."""

        def write(self, prompt, count, told):
            for place in range(count):
                told(prompt[0] + place)

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(Model()))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, output = f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "found.json"
    words = ["--vocabulary", "5", "9", "--requests", "3", "--clients", "3", "--tokens", "6", "--output", str(output)]
    assert main(["--base_url", url, *words]) == 0
    server.shutdown()
    server.server_close()
    found = json.loads(output.read_text())
    assert found["requests"] == 3 and found["output_tokens"] == 18 and found["prompt_tokens"] == 3 * 128


@pytest.mark.long
def test_this_projects_server_bears_a_load(tmp_path):
    """The real export, server and client, of tiny shapes."""
    environment = Environment(tmp_path, Path("/none/python"), tmp_path / "log", quick=True)
    found = execute(Plan(("serve-4", "long-prompt", "ready-quickstart"), 1, quick=True), environment, quiet)
    assert not [value for value in found.prepared.values() if "error" in value], found.prepared
    shape = QUICK_SHAPES["glm4"]
    (load,) = found.runs["glm4", "serve-4", "served-fp32"]
    assert load["output_tokens"] == load["requests"] * shape.new_tokens and load["ttft"]["p50"] > 0
    assert "make bench" in found.runs["glm4", "serve-4", "served-llama-f32"][0]["error"]
    assert all(run["seconds"] > 0 for run in found.runs["quickstart", "ready", "served-fp32"])


@pytest.mark.long
def test_an_export_without_servers_has_no_texts(tmp_path):
    prepare(tmp_path, QUICK_SHAPES["glm4"], ["onnx-fp32"])
    assert not (tmp_path / "onnx-fp32" / "tokenizer.model").exists()

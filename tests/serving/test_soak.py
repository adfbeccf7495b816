"""Two thousand requests of all kinds to a server of an export: neither of its processes grows."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from served_process import Served, write_export

pytest.importorskip("onnxruntime", reason="ONNX Runtime needs Python 3.11")
pytestmark = [pytest.mark.slow, pytest.mark.process]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WARM, ALL, CLIENTS, LONGEST = 500, 2000, 4, 200
MOST_GROWTH = 1.02
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def served(chat_models, tmp_path):
    write_export(chat_models["glm4-0414"], tmp_path)
    limits = ["--max_model_len", "256", "--max_num_seqs", "4", "--prompt_lookup", "4"]
    with Served("--model_path", tmp_path, "--cpu_threads", "1", *limits) as found:
        yield found


def test_15_two_thousand_requests_leave_no_memory_behind(served):
    """What is neither a file's nor shared, swapped or not, of each process: a plain RSS would hide swap.

    A heap that is still being broken up by sizes that come up for the first time comes to rest, a leak does not: where
    the bound is not kept, as many requests again must keep it.
    """
    send_all(served, 0, WARM, 2 * CLIENTS)  # what so many at once need is there before it is counted
    growth = [grown(served, WARM, ALL)]
    if max(growth[0].values()) > MOST_GROWTH:
        growth.append(grown(served, ALL, 2 * ALL - WARM))
    assert max(growth[-1].values()) <= MOST_GROWTH, growth
    assert served.process.poll() is None and not any("Traceback" in line for line in served.lines)


def grown(served: Served, first: int, last: int) -> dict[str, float]:
    """How many times the memory of before each process has behind some requests."""
    processes = {"http": served.process.pid, "engine": served.engine}
    before = {name: anonymous(served, process) for name, process in processes.items()}
    send_all(served, first, last)
    return {name: anonymous(served, process) / before[name] for name, process in processes.items()}


def send_all(served: Served, first: int, last: int, clients: int = CLIENTS) -> None:
    with ThreadPoolExecutor(clients) as pool:
        statuses = list(pool.map(lambda number: send(served, number), range(first, last)))
    assert statuses == [wanted_status(number) for number in range(first, last)]


def anonymous(served: Served, process: int) -> int:
    """Kilobytes, once nothing is being written."""
    end = time.monotonic() + 60
    while "glm:num_requests_running{" in (text := served.ask("/metrics")[1]) and time.monotonic() < end:
        if all(f'glm:num_requests_{kind}{{model_name="glm"}} 0.0' in text for kind in ("running", "waiting")):
            break
        time.sleep(0.05)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return sum(int(status[name].split()[0]) for name in ("RssAnon", "VmSwap"))


def send(served: Served, number: int) -> int:
    """A request of the kind that its number says; the status."""
    path, body = KINDS[number % len(KINDS)](number, np.random.default_rng(number))
    host = served.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        raw = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        leaves = isinstance(body, dict) and body.get("user") == "leaves"
        answer.read(40) if leaves else answer.read()
        return answer.status
    finally:
        connection.close()


def wanted_status(number: int) -> int:
    return {wrong: 400, nowhere: 404}.get(KINDS[number % len(KINDS)], 200)


def question(number: int, **more) -> tuple[str, dict]:
    return CHAT, {"messages": [{"role": "user", "content": f"问题 {number}"}], "max_tokens": 8, "seed": number, **more}


def prompt(number: int, draw, **more) -> tuple[str, dict]:
    """The longest come first: what they need is there before it is counted."""
    size = LONGEST if number < WARM else draw.integers(2, LONGEST)
    return COMPLETIONS, {"prompt": draw.integers(5, 90, size).tolist(), "max_tokens": 8, **more}


def whole(number, draw):
    return question(number)


def streamed(number, draw):
    return question(number, stream=True, stream_options={"include_usage": True})


def several(number, draw):
    return question(number, n=3, stop=["的", "abc"], frequency_penalty=0.5)


def told(number, draw):
    return question(number, logprobs=True, top_logprobs=5)


def scored(number, draw):
    return prompt(number, draw, echo=True, logprobs=2, max_tokens=int(draw.integers(0, 2)))


def read(number, draw):
    return prompt(number, draw, stream=bool(number % 2), ignore_eos=True, logit_bias={"77": 9.0})


def beams(number, draw):
    return prompt(number, draw, num_beams=3)


def schema(number, draw):
    """Another one each time: none is kept for ever."""
    made = {"type": "object", "properties": {f"k{number}": {"type": "boolean"}}, "required": [f"k{number}"]}
    made["additionalProperties"] = False
    return question(number, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": made}})


def tool(number, draw):
    return question(number, tools=[TOOL], tool_choice="required", max_tokens=12)


def leaves(number, draw):
    return question(number, stream=True, max_tokens=60, user="leaves")


def wrong(number, draw):
    return question(number, temperature="hot")


def nowhere(number, draw):
    return f"/v1/nothing/{number}", {}


def tokens(number, draw):
    return "/tokenize", {"prompt": f"问题 {number}"}


def figures(number, draw):
    return "/metrics", None


KINDS = (
    whole, streamed, several, told, scored, read, beams, schema, tool, leaves, wrong, nowhere, tokens, figures
)  # fmt: skip

"""The training of the sides that use Paddle: each brings its model and its loss."""

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import paddle
from paddle import Tensor, nn
from paddle.profiler import Profiler, ProfilerTarget

from benchmarks.settings import LEARNING_RATE, LORA_RANK, Task

_ROUNDED = 1.0  # microseconds by which a trace's times can be off: their beginnings are whole ones


class TrainedSide:
    """What `benchmarks.side.SideProtocol` says of training, for a side with a model and the loss of its batch."""

    model: nn.Layer
    optimizer_class: type[paddle.optimizer.AdamW] = paddle.optimizer.AdamW

    def _loss(self) -> Tensor:
        raise NotImplementedError

    def add_lora(self, rank: int) -> None:
        raise NotImplementedError

    def start_training(self, task: Task) -> float:
        if task.lora:
            self.add_lora(LORA_RANK)
        loss = self.first_loss()
        self.model.train()
        self.trained = [p for p in self.model.parameters() if not p.stop_gradient]
        self.optimizer = self.optimizer_class(LEARNING_RATE, parameters=self.trained)
        return loss

    def first_loss(self) -> float:
        self.model.eval()
        with paddle.no_grad():
            return float(self._loss())

    def train_step(self) -> None:
        loss = self._loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        float(loss)

    def trained_parameters(self) -> int:
        return sum(p.size for p in self.trained)


def paddle_operators(work) -> list[dict]:
    """Seconds and calls of Paddle's operators while `work` runs, from its own profiler."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "trace.json")
        # Without a callback of ours Paddle writes a trace into the current directory, too.
        with Profiler(targets=[ProfilerTarget.CPU], on_trace_ready=lambda found: found.export(str(file), "json")):
            work()
        events = json.loads(file.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
    return own_times([event | {"name": operator(event["name"])} for event in events if "name" in event])


def operator(name: str) -> str:
    """`matmul_grad kernel launch[14.802 ms]` and `ProfileStep#0[…]` without what differs from call to call."""
    return re.sub(r"( kernel launch)?\[[^\]]*\]$|#\d+(\[[^\]]*\])?$", "", name)


def own_times(events: list[dict]) -> list[dict]:
    """Rows of what ran, each without the time of what ran inside it; times of a trace are microseconds.

    Paddle writes what Python and what C++ did in one thread as two (`7(Python)`, `7(C++)`), the one inside the other.
    """
    seconds, calls = Counter(), Counter()
    spans = [e | {"tid": str(e["tid"]).partition("(")[0]} for e in events if e.get("ph") == "X" and "dur" in e]
    for thread in {e["tid"] for e in spans}:
        inside: list[dict] = []
        for event in sorted((e for e in spans if e["tid"] == thread), key=lambda e: (e["ts"], -e["dur"])):
            while inside and _end(event) > _end(inside[-1]) + _ROUNDED:
                inside.pop()
            if inside:
                seconds[inside[-1]["name"]] -= event["dur"] / 1e6
            seconds[event["name"]] += event["dur"] / 1e6
            calls[event["name"]] += 1
            inside.append(event)
    return [{"what": what, "seconds": max(0.0, own), "calls": calls[what]} for what, own in seconds.most_common()]


def _end(event: dict) -> float:
    return event["ts"] + event["dur"]

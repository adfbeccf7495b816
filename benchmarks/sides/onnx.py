"""This project: its generation engine over an exported step graph in ONNX Runtime."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from benchmarks.settings import Task
from benchmarks.side import Generation, Place
from benchmarks.sides.positions import positions_of
from benchmarks.sides.prompts import end_token, prompts_of
from glm.device.tuning import usable_cores
from glm.engine import Engine, EngineOptions, Request
from glm.generation.options import GenerationConfig, StopTokens
from glm.runtime.onnx_step import OnnxStepRuntime

OUTSIDE = "outside the graph's kernels (search, numpy, calls)"


class Side:
    """An engine that keeps nothing between runs, so that every run reads its prompt."""

    def __init__(self, place: Place):
        self.directory, self.shape = place.directory, place.shape
        self.file = place.directory / f"onnx-{place.side.weights}" / "glm.onnx"
        self.end = end_token(place.directory)
        self.engine = self._engine(OnnxStepRuntime(self.file, self._columns(), usable_cores()))

    def generate(self, task: Task, patience: float) -> Generation:
        return timed(self.engine, prompts_of(self.directory, task).tolist(), options(task, self.shape))

    def profile(self, task: Task) -> list[dict]:
        """Kernels of the graph by operator, of decoding alone unless the prompt is the task, and what lies outside."""
        with tempfile.TemporaryDirectory() as directory:
            runtime = _ProfiledRuntime(self.file, self._columns(), Path(directory))
            engine = self._engine(runtime)
            prompts, config = prompts_of(self.directory, task).tolist(), options(task, self.shape)
            timed(engine, prompts, config)  # warms up
            begin = time.perf_counter()
            marks = timed(engine, prompts, config).marks
            return runtime.operators(begin + (0.0 if len(marks) == 1 else marks[0][1]), begin + marks[-1][1])

    def _engine(self, runtime: OnnxStepRuntime) -> Engine:
        stop = StopTokens((self.end,), self.end)
        return Engine(runtime, positions_of(self.directory), stop, EngineOptions(reuse_prefix=False, scores=False))

    def _columns(self) -> int:
        return max(self.shape.prompt, self.shape.long_prompt) + self.shape.new_tokens


def options(task: Task, shape) -> GenerationConfig:
    """So many tokens, no more and no less."""
    count = task.new_tokens(shape)
    return GenerationConfig(
        max_length=count, min_length=count, num_beams=task.beams, no_repeat_ngram_size=task.no_repeat
    )


def timed(engine: Engine, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> Generation:
    """A generation, with the time at which the last row had each of its tokens."""
    count, ends, found = Counter(), {}, {}
    start = time.perf_counter()
    for event in engine.run([Request(ids, config) for ids in prompts]):
        count[event.id] += 1
        ends[count[event.id]] = time.perf_counter() - start
        if event.result:
            found[event.id] = event.result.tokens
    return Generation([found[index] for index in range(len(prompts))], sorted(ends.items()))


class _ProfiledRuntime(OnnxStepRuntime):
    """A runtime whose session writes down when each kernel ran."""

    def __init__(self, file: Path, columns: int, directory: Path):
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(directory / "ort")
        super().__init__(file, columns, usable_cores(), options=options)

    def operators(self, begin: float, end: float) -> list[dict]:
        """Kernels between two times of `time.perf_counter`."""
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        seconds, calls = Counter(), Counter()
        # The trace has a clock of its own; its last run ends when the last token is chosen.
        offset = max(e["ts"] + e["dur"] for e in events if e.get("name") == "model_run") / 1e6 - end
        for event in events:
            inside = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
            if inside and event["ts"] / 1e6 >= begin + offset:
                what = kernel_name(event)
                seconds[what] += event["dur"] / 1e6
                calls[what] += 1
        rows = [{"what": w, "seconds": s, "calls": calls[w]} for w, s in seconds.most_common()]
        rest = end - begin - sum(seconds.values())
        rows.append({"what": OUTSIDE, "seconds": rest, "calls": 0})
        return sorted(rows, key=lambda row: -row["seconds"])


def kernel_name(event: dict) -> str:
    """An operator, and for a matmul the shape of its product's input and output."""
    arguments = event["args"]
    name = arguments["op_name"]
    if not name.startswith(("MatMul", "Gemm")):
        return name
    shapes = [next(iter(s.values())) for s in arguments.get("output_type_shape", [])][:1]
    return f"{name} → {shapes[0][-1]}" if shapes and shapes[0] else name

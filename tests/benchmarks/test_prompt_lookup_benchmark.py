"""The benchmark of prompt lookup: what it counts, and what it says of an export that is none."""

from rich.console import Console

from benchmarks.prompt_lookup import call_seconds, main, tables, texts
from glm.encoding.batches import TextPositions
from glm.engine import GenerationConfig, StopTokens
from tests.engine.simulated import SimulatedRuntime

PROMPTS = [[*range(10, 40), 10, 11], [*range(20, 50), 20, 21]]


def test_calls_of_all_sizes_are_measured():
    runtime = SimulatedRuntime()
    found = call_seconds(runtime, TextPositions(), PROMPTS[0], 9, 2)
    assert list(found) == [*range(1, 10)] and min(found.values()) > 0
    assert [count for _, count, _ in runtime.calls[1:]] == [count for count in range(1, 10) for _ in range(3)]


def test_texts_are_compared():
    runtime, stop = SimulatedRuntime(copies=9.0), StopTokens((), 0)
    found = texts(runtime, TextPositions(), stop, PROMPTS, GenerationConfig(20), 6, 2)
    assert (found.tokens, found.prompts, found.same) == (40, 2, 2)
    assert 0 < found.right <= found.of and found.plain > 0 and found.guessed > 0
    console = Console(record=True, width=80)
    for table in tables({1: 0.002, 2: 0.003}, found, 6):
        console.print(table)
    said = console.export_text()
    assert "3.00" in said and "1.50" in said and "2 texts, 2 of them the same" in said


def test_no_export(tmp_path, capsys):
    assert main(["--model_path", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err

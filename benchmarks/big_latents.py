"""GLM-4.7-Flash's true shapes on a small machine: random weights are exported with few bits, and decode here.

    python -m benchmarks.big_latents --directory /somewhere/with/20/GB/free

A checkpoint of 60 GB would stand beside its export for nothing, so each weight is made when the export asks for it, as
a checkpoint's reader would give it: bfloat16, the experts of a layer together. With --made 3 the export has three
layers, of which the last one is copied into the file of the whole model: generation is as fast, and it takes a minute.
Export and generation are processes of their own and report their own peak of resident memory. Everything but the JSON
file is removed at the end.
"""

import argparse
import re
import statistics
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import glm
from benchmarks.big_export import (
    cost_rows,
    in_new_process,
    limit_rows,
    print_rows,
    read_rate,
    stored_bytes,
    write_report,
)
from glm.checkpoint.peak_memory import PeakMemory
from glm.files.sizes import in_words

glm.tune()  # as the scripts

PRESET, LAYERS, VOCABULARY = "glm-4.7-flash", 47, 154880
POOL = 1 << 24  # random numbers, from which every weight takes its own stretch
PROMPT, STEPS, CACHED = 128, 24, (200, 2000)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    require_copies(options)
    write_report(options, run, show)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All steps, export and generation in processes of their own."""
    prefix, report = options.directory / "model", vars(options) | {"directory": None, "output": None}
    sizes, made_layers = (options.layers, options.vocabulary), options.made or options.layers
    report["export"] = in_new_process(export, prefix, options.weights, made_layers, options.vocabulary)
    if made_layers < options.layers:
        report["bytes"] = repeat(prefix, options.weights, made_layers, *sizes)
    report["generation"] = in_new_process(generate, prefix.with_suffix(".onnx"), *sizes)
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_latents", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="a new directory; removed at the end")
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer for a quick look")
    parser.add_argument("--made", type=int, help="layers that are exported; the others are copies of the last")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="the same")
    parser.add_argument("--weights", choices=("int8", "int4"), default="int4", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output/big_latents.json"), help="default: %(default)s")
    return parser.parse_args(arguments)


def require_copies(options: argparse.Namespace) -> None:
    """Ends the program where the last layer that is made cannot stand for those behind it."""
    made_layers, layers = options.made, options.layers
    if made_layers is None:
        return
    if made_layers > layers:
        raise SystemExit(f"benchmarks.big_latents: --made {made_layers} is more than --layers {layers}: lower it")
    dense = config_of(layers, options.vocabulary).first_k_dense_replace
    if made_layers <= dense and made_layers != layers:
        raise SystemExit(
            f"benchmarks.big_latents: --made {made_layers} has no layer with experts to copy behind {dense} dense: "
            f"give at least {dense + 1}"
        )


def config_of(layers: int, vocabulary: int) -> Any:
    from glm.config.fields import PlainConfig

    return PlainConfig.preset(PRESET, num_hidden_layers=layers, vocab_size=vocabulary)


def made(config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays as a checkpoint's reader gives them, one in memory at a time."""
    import ml_dtypes

    from glm.config.shapes import parameter_shapes

    draw = np.random.default_rng(0)
    pool = (draw.standard_normal(POOL, dtype="float32") * np.float32(0.02)).astype(ml_dtypes.bfloat16)
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            yield name, np.full(shape, float(name.endswith("norm.weight")), "float32")
        else:
            yield name, np.resize(np.roll(pool, int(draw.integers(POOL))), prod(shape)).reshape(shape)


def export(prefix: Path, weights: str, layers: int, vocabulary: int) -> dict[str, Any]:
    """Writes the step graph: seconds, peak memory, sizes."""
    memory, begin = PeakMemory(), time.perf_counter()
    from glm.export.onnx.weights import weights_of
    from glm.export.onnx.write import write_step_graph

    config = config_of(layers, vocabulary)
    parameters = write_step_graph(config, made(config), weights_of(weights), prefix)
    return {
        "seconds": time.perf_counter() - begin,
        "peak_memory": memory.growth(),
        "parameters": parameters,
        "bytes": sum(file.stat().st_size for file in prefix.parent.glob(f"{prefix.name}.onnx*")),
        "embedding_bytes": stored_bytes(prefix.with_suffix(".onnx"), "model.embed_tokens.weight."),
    }


def repeat(prefix: Path, weights: str, made_layers: int, layers: int, vocabulary: int) -> int:
    """Puts the whole model in the place of its first layers; returns the size of its file."""
    from glm.export.onnx.step_graph import step_graph
    from glm.export.onnx.weights import weights_of

    few, whole = (step_graph(config_of(count, vocabulary), weights_of(weights)) for count in (made_layers, layers))
    source, target = prefix.with_name("few.data"), prefix.with_name(f"{prefix.name}.onnx.data")
    target.rename(source)
    places = {slot.name: slot for slot in few.data.slots}
    with source.open("rb") as old, target.open("wb") as new:
        new.truncate(whole.data.size)
        for slot in whole.data.slots:
            old.seek(places[_copied(slot.name, made_layers)].offset)
            new.seek(slot.offset)
            new.write(old.read(slot.nbytes))
    source.unlink()
    prefix.with_suffix(".onnx").write_bytes(whole.model(target.name).SerializeToString())
    return whole.data.size


def _copied(name: str, made_layers: int) -> str:
    """The slot of the last layer there is, in the place of one behind it."""
    return re.sub(r"(?<=\blayers\.)\d+", lambda found: str(min(int(found[0]), made_layers - 1)), name)


def generate(model_file: Path, layers: int, vocabulary: int) -> dict[str, Any]:
    """A prompt, and steps behind so many cached tokens: start-up, tokens/s, peak memory, and what the memory allows."""
    memory, begin = PeakMemory(), time.perf_counter()
    from glm.runtime.onnx_columns import OnnxColumnRuntime

    runtime = OnnxColumnRuntime(model_file, 1 << 17)
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - begin}
    ids = np.random.default_rng(1).integers(0, vocabulary, PROMPT)
    cache, begin = runtime.new_cache(1, PROMPT), time.perf_counter()
    runtime.prefill(cache, 0, ids.tolist(), np.arange(PROMPT)[None], 0, 0)
    found["prefill_tokens_per_second"] = PROMPT / (time.perf_counter() - begin)
    for cached in CACHED:
        seconds = steps(runtime, cached)
        found |= {f"steps_at_{cached}": 1 / statistics.median(seconds), f"best_at_{cached}": 1 / min(seconds)}
    found |= {"peak_memory": memory.growth(), "read_bytes_per_second": read_rate()}
    found["bytes_a_token"] = read_bytes(model_file, config_of(layers, vocabulary))
    return found | {"limit_tokens_per_second": found["read_bytes_per_second"] / found["bytes_a_token"]}


def steps(runtime: Any, cached: int) -> list[float]:
    """Seconds of single tokens behind so many that the cache holds, which are random."""
    draw, times = np.random.default_rng(2), []
    cache = runtime.new_cache(1, cached + STEPS)
    cache.store[...] = draw.standard_normal(cache.store.shape[-1], dtype="float32")
    for length in range(cached, cached + STEPS):
        ids, begin = draw.integers(0, runtime.vocab_size, 1), time.perf_counter()
        runtime.decode(cache, ids, np.array([[length]]), np.array([length]))
        times.append(time.perf_counter() - begin)
    return times[2:]  # the first ones allocate


def read_bytes(model_file: Path, config: Any) -> int:
    """What a step has to read of the weights' file: of the embedding one row, of a layer's experts those it takes."""
    from glm.config.shapes import active_shapes, parameter_shapes

    whole, active = (sum(map(prod, shapes(config).values())) for shapes in (parameter_shapes, active_shapes))
    size = model_file.with_name(f"{model_file.name}.data").stat().st_size
    return int(size * active / whole)


def show(report: dict[str, Any]) -> None:
    export, generation = report["export"], report["generation"]
    rows = {"the whole model's file": in_words(report["bytes"])} if "bytes" in report else {}
    rows |= {
        f"export, {export['parameters'] / 1e9:.2f} billion weights": in_words(export["bytes"]),
        **cost_rows(report, PROMPT),
        **{
            f"steps behind {cached} tokens, tokens/s (median of {STEPS - 2}; best)": (
                f"{generation[f'steps_at_{cached}']:.2f}; {generation[f'best_at_{cached}']:.2f}"
            )
            for cached in CACHED
        },
        "a step reads": in_words(generation["bytes_a_token"]),
        **limit_rows(generation),
    }
    print_rows(f"GLM-4.7-Flash's shapes, {report['weights']}", rows)


if __name__ == "__main__":
    main()

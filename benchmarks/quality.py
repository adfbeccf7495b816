"""What quantized weights cost: a model's texts scored with every kind of weights, beside float32.

    python -m benchmarks.quality --model output/quickstart/questions

Every kind is exported to ONNX and reads the same texts in ONNX Runtime: a prompt at once, its answer token by token, as
in use. All kinds are in memory together, about four times the model in float32.
"""

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import onnxruntime
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import glm
from benchmarks.quality_layer import LayerError, layer_errors
from benchmarks.quality_score import Quality, score
from glm.checkpoint.read import open_checkpoint
from glm.config.glm_config import GLMConfig
from glm.datasets.tasks import load_examples
from glm.encoding.examples import TrainingExample
from glm.encoding.processor import Processor, open_processor
from glm.errors import GLMError
from glm.export.onnx.quantize import Blocks
from glm.export.onnx.weights import FloatWeights, QuantizedWeights, Weights, weights_of
from glm.export.onnx.write import write_step_graph
from glm.files.atomic import atomic_write
from glm.runtime.onnx_columns import OnnxColumnRuntime
from glm.runtime.onnx_step import OnnxStepRuntime
from glm.runtime.step import StepRuntime

glm.tune()  # as the scripts

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "real" / "datasets"  # reference data beside the checkout, on no user's machine
# The sample that comes with the project, and real data sets where they are.
DATA = (
    "dureader_qg",
    f"dureader_qg={REAL / 'dureader_qg.dev.jsonl'}",
    f"adgen={REAL / 'adgen.dev.jsonl'}",
    f"train_1M_CN={REAL / 'belle.dev1k.jsonl'}",
    f"alpaca={REAL / 'alpaca_format.json'}",
)
BLOCK_SIZES = (32, 64, 128)


def kinds() -> dict[str, Weights]:
    """What is compared; float32 is the first."""
    found: dict[str, Weights] = {"fp32": FloatWeights()}
    for bits in (8, 4):
        for block in BLOCK_SIZES:
            found[f"int{bits}, {block}"] = QuantizedWeights(Blocks(bits, block))
            found[f"int{bits}, {block}, asymmetric"] = QuantizedWeights(Blocks(bits, block, symmetric=False))
    for block in BLOCK_SIZES:
        found[f"int4, {block}, tables int8"] = QuantizedWeights(Blocks(4, block), tables=Blocks(8, block))
    found["int8, columns (--opset 17)"] = weights_of("int8", opset=17)
    return found


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        report = run(options.model, options.data, options.rows, options.output)
    except (GLMError, OSError) as error:
        print(f"benchmarks.quality: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 120)
    for name, qualities in report["data"].items():
        show_qualities(console, name, qualities, report["megabytes"])
    show_layers(console, report["layers"])
    print(f"written: {options.output}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a model directory, such as the quickstart's")
    parser.add_argument(
        "--data", nargs="+", default=list(DATA), metavar="TASK[=FILE]", help="texts; a task alone = its held-out sample"
    )
    parser.add_argument("--rows", type=int, default=300, help="most rows of a data set (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/quality.json"), help="default: %(default)s")
    return parser.parse_args(arguments)


def run(model: Path, data: list[str], rows: int, output: Path) -> dict:
    """Measures, and writes the JSON file.

    Raises:
        GLMError: no model, or no data at all. OSError: the output cannot be written.
    """
    processor, config = open_processor(model), GLMConfig.from_pretrained(str(model))
    processor.check_fits(config.vocab_size, config.max_position_embeddings)
    texts = {name: found for each in data for name, found in [rows_of(each, processor, rows)] if found}
    if not texts:
        raise GLMError(f"none of {', '.join(data)} is there: give --data TASK=FILE")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".quality-", dir=output.parent) as directory:
        runtimes, megabytes = export(model, config, Path(directory))
        measured = {name: score(runtimes, found, processor.positions, name) for name, found in texts.items()}
    report = {
        "command": shlex.join([sys.executable, "-m", "benchmarks.quality", *sys.argv[1:]]),
        "model": str(model),
        "onnxruntime": onnxruntime.__version__,
        "megabytes": megabytes,
        "data": {name: {kind: asdict(each) for kind, each in found.items()} for name, found in measured.items()},
        "layers": [asdict(each) for each in layer_errors()],
    }
    with atomic_write(output, "w", "utf-8") as file:
        file.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def rows_of(data: str, processor: Processor, most: int) -> tuple[str, list[TrainingExample]]:
    """A name and the training rows of `TASK=FILE`, or of a task's own sample; none where the file is missing."""
    task, _, path = data.partition("=")
    if path and not Path(path).is_file():
        print(f"{path} is missing: {task} is left out", file=sys.stderr)
        return data, []
    # A file is read as what to train on: it is all there is.
    loaded = load_examples(task, "train" if path else "dev", path or None)
    rows = [row for example in loaded.examples[:most] for row in processor.rows(example) if row.trained_tokens]
    return Path(path).name or f"{task}, the project's sample", rows


def export(model: Path, config: GLMConfig, directory: Path) -> tuple[dict[str, StepRuntime], dict[str, float]]:
    """A runtime of every kind of weights, and how many megabytes they take."""
    runtimes, megabytes = {}, {}
    for number, (kind, weights) in enumerate(tqdm(kinds().items(), desc="export", unit=" kinds", leave=False)):
        prefix = directory / str(number)
        write_step_graph(config, open_checkpoint(model).tensors(config), weights, prefix)
        megabytes[kind] = sum(file.stat().st_size for file in directory.glob(f"{number}.*")) / 1e6
        # One thread each: the pools of so many sessions would wait for each other.
        opened = OnnxColumnRuntime if weights.operators.standard or config.kv_lora_rank else OnnxStepRuntime
        runtimes[kind] = opened(prefix.with_suffix(".onnx"), config.max_position_embeddings, threads=1)
    return runtimes, megabytes


def show_qualities(console: Console, name: str, qualities: dict[str, dict], megabytes: dict[str, float]) -> None:
    scored = next(iter(qualities.values()))
    table = Table(title=f"{name}: {scored['tokens']:,} tokens of {scored['rows']} answers", title_justify="left")
    for column in ("weights, block", "MB", "perplexity", "over fp32", "same top token", "KL to fp32"):
        table.add_column(column, justify="left" if column.startswith("weights") else "right")
    exact = scored["perplexity"]
    for kind, each in qualities.items():
        quality = Quality(**each)
        cells = f"{megabytes[kind]:.2f}", f"{quality.perplexity:.4f}", f"{quality.perplexity / exact - 1:+.2%}"
        table.add_row(kind, *cells, f"{quality.agreement:.2%}", f"{quality.divergence:.5f}")
    console.print(table)


def show_layers(console: Console, layers: list[dict]) -> None:
    title = "one matmul of GLM-4-9B's width: error of the outputs, of their size; bits per weight"
    table = Table(title=title, title_justify="left")
    for column in ("weights, block", "bits", "normal weights", "Student's t, 5 degrees"):
        table.add_column(column, justify="left" if column.startswith("weights") else "right")
    for each in layers:
        error = LayerError(**each)
        table.add_row(error.kind, f"{error.bits:.2f}", f"{error.normal:.2%}", f"{error.heavy:.2%}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

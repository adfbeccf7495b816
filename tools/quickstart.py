"""`make quickstart`: the suite's main job on the embedded default, through the commands that a user would type.

Fine-tunes glm-tiny-chinese to ask questions, evaluates it on held-out names before and after, teaches it the
instruction sample with a LoRA adapter, exports both for the fastest backend, runs the exported graphs, and compares
them with the dynamic model text by text. Everything goes to output/quickstart, the figures to report.json.
"""

import json
import platform
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from glm.device.choice import may_have_accelerator  # noqa: E402
from glm.runtime import choose  # noqa: E402

OUTPUT = ROOT / "output" / "quickstart"
SHORT = ["--src_length", "64", "--tgt_length", "32", "--min_tgt_length", "0", "--num_beams", "1"]
SHORT += ["--no_repeat_ngram_size", "0", "--per_device_eval_batch_size", "100", "--eval_samples_shown", "0"]
ONCE = ["--logging_steps", "50", "--save_steps", "100000", "--overwrite_output_dir"]
QUESTIONS = ["finetune_generation.py", *SHORT, *ONCE, "--do_eval"]
INSTRUCTIONS = ["finetune_instruction_generation.py", *SHORT, *ONCE, "--do_eval"]
TRAIN = ["--do_train", "--per_device_train_batch_size", "32", "--warmup_ratio", "0.06", "--label_smoothing", "0.1"]
MODEL = ["--model_name_or_path", OUTPUT / "questions"]
# Elsewhere than on a CPU, and on Python 3.10, Paddle Inference is the fastest there is.
FORMAT = "onnx" if find_spec("onnxruntime") and not may_have_accelerator() else "paddle"
ADAPTER = OUTPUT / "instructions-lora"
METRICS = ("exact_match", "bleu4", "rouge1", "rouge2", "rougeL")


class Stages:
    """Runs one script after the other and keeps the time."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, *command: str | Path) -> None:
        start = time.perf_counter()
        run(name, [str(word) for word in command])
        self.seconds[name] = round(time.perf_counter() - start, 1)


def main() -> None:
    """Runs the stages, then writes and prints the report."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    stage = Stages()
    train_questions(stage)
    train_instructions(stage)
    equal = {
        "questions": exported_equals_dynamic(stage, "questions", OUTPUT / "questions"),
        "instructions": exported_equals_dynamic(stage, "instructions", ADAPTER, "--lora_path", ADAPTER),
    }
    shutil.copy(OUTPUT / "questions" / "loss.png", OUTPUT / "loss.png")
    report = make_report(stage.seconds, equal)
    (OUTPUT / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    show(report)
    if not all(equal.values()):
        sys.exit("error: exported and dynamic output differ")


def train_questions(stage: Stages) -> None:
    """Full fine-tuning from random weights; the same evaluation before it."""
    tiny = ("--model_name_or_path", "glm-tiny-chinese")
    stage("evaluate the untrained model", *QUESTIONS, *tiny, "--output_dir", OUTPUT / "untrained")
    schedule = ("--learning_rate", "2e-3", "--max_steps", "1000")
    stage("fine-tune to ask questions", *QUESTIONS, *TRAIN, *tiny, *schedule, "--output_dir", OUTPUT / "questions")


def train_instructions(stage: Stages) -> None:
    """A LoRA adapter on the model that asks questions; the same evaluation without it."""
    stage("evaluate without adapter", *INSTRUCTIONS, *MODEL, "--output_dir", OUTPUT / "instructions-before")
    lora = ("--lora", "True", "--r", "32", "--lora_targets", "all", "--learning_rate", "5e-3", "--max_steps", "400")
    stage("fine-tune a LoRA adapter", *INSTRUCTIONS, *TRAIN, *MODEL, *lora, "--output_dir", ADAPTER)


def exported_equals_dynamic(stage: Stages, name: str, evaluated: Path, *adapter: str | Path) -> bool:
    """Exports a model, runs the graph and the model on the evaluation's sources, and compares the texts."""
    sources = OUTPUT / f"{name}.txt"
    sources.write_text("".join(flat(row["source"]) + "\n" for row in predictions(evaluated)), encoding="utf-8")
    texts = ("--input_file", sources, "--batch_size", "50", "--src_length", "64", "--tgt_length", "32")
    from_graph, from_model = OUTPUT / f"{name}.graph.txt", OUTPUT / f"{name}.dynamic.txt"
    export = ("--format", FORMAT, "--output_path", OUTPUT / "export" / name)
    stage(f"export: {name}", "export_generation_model.py", *MODEL, *adapter, *export)
    graph = ("--model_path", OUTPUT / "export", "--model_prefix", name)
    stage(f"run the exported graph: {name}", "infer_generation.py", *graph, *texts, "--output_file", from_graph)
    stage(f"run the model: {name}", "predict_generation.py", *MODEL, *adapter, *texts, "--output_file", from_model)
    return from_graph.read_bytes() == from_model.read_bytes()


def run(name: str, command: list[str]) -> None:
    """Runs one of the scripts; its bars are shown, its tables kept for when it fails."""
    shown = " ".join(word.replace(f"{ROOT}/", "") for word in command)
    print(f"\n{name}\n  python {shown}", flush=True)
    result = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        print(result.stdout)
        sys.exit(f"error: stage '{name}' ended with exit code {result.returncode}")


def predictions(run_directory: Path) -> list[dict[str, str]]:
    lines = (run_directory / "eval_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def flat(text: str) -> str:
    return " ".join(text.split("\n")).strip()


def metrics(run_directory: Path) -> dict[str, float]:
    values = json.loads((run_directory / "eval_results.json").read_text(encoding="utf-8"))
    return {name: round(values[f"eval_{name}"], 4) for name in (*METRICS, "loss")}


def make_report(seconds: dict[str, float], equal: dict[str, bool]) -> dict:
    """Everything that was measured."""
    training = json.loads((OUTPUT / "questions" / "train_results.json").read_text(encoding="utf-8"))
    lora = json.loads((ADAPTER / "train_results.json").read_text(encoding="utf-8"))
    return {
        "model": "glm-tiny-chinese",
        "parameters": training["parameters"],
        "lora_parameters": lora["trained_parameters"],
        "train_tokens_per_second": training["train_tokens_per_second"],
        "lora_train_tokens_per_second": lora["train_tokens_per_second"],
        "questions": {"before": metrics(OUTPUT / "untrained"), "after": metrics(OUTPUT / "questions")},
        "instructions": {
            "before": metrics(OUTPUT / "instructions-before"),
            "after": metrics(ADAPTER),
        },
        "held_out_rows": len(predictions(OUTPUT / "questions")),
        "backend": str(choose(None, None, [FORMAT])),
        "exported_equals_dynamic": equal,
        "seconds": seconds,
        "seconds_in_all": round(sum(seconds.values()), 1),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "samples": predictions(OUTPUT / "questions")[:5],
    }


def show(report: dict) -> None:
    """The tables at the end."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print()
    table = Table(title="held-out rows, characters as units (0 to 1)", title_justify="left")
    for column in ("", *METRICS):
        table.add_column(column, justify="left" if not column else "right")
    for task, label in (("questions", "question generation"), ("instructions", "instructions, LoRA")):
        for when in ("before", "after"):
            row = report[task][when]
            table.add_row(f"{label}, {when}", *(f"{row[name]:.3f}" for name in METRICS))
    console.print(table)
    samples = Table(title="generated questions", title_justify="left")
    samples.add_column("source", overflow="fold")
    samples.add_column("generated", overflow="fold")
    samples.add_column("reference", overflow="fold")
    for row in report["samples"]:
        samples.add_row(row["source"], row["prediction"], row["reference"])
    console.print(samples)
    speed = f"{report['train_tokens_per_second']:,.0f} training tokens/s"
    speed += f" (LoRA {report['lora_train_tokens_per_second']:,.0f})"
    equal = "equal" if all(report["exported_equals_dynamic"].values()) else "DIFFERENT"
    console.print(f"{report['parameters']:,} parameters, {speed}")
    console.print(f"exported for {report['backend'].removeprefix('backend: ')}; exported and dynamic output: {equal}")
    console.print(f"{report['seconds_in_all']:.0f} s in all; output/quickstart/report.json, output/quickstart/loss.png")
    served = f"--model_path {(OUTPUT / 'export').relative_to(ROOT)} --model_prefix questions"
    console.print(f"talk to it in a browser: {python_here()} serve_generation.py {served}", soft_wrap=True)


def python_here() -> str:
    """This interpreter, as one types it in the checkout."""
    path = Path(sys.executable)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()

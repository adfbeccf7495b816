"""What evaluate_generation.py does for a user, whoever answers: flags, a run that goes on, a table, files."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glm.cli.argument_file import command_line
from glm.cli.console import note, print_table
from glm.cli.script import add_thinking_argument, size
from glm.config.presets import is_directory
from glm.datasets.multiple_choice.benchmarks import BENCHMARKS, Benchmark, Subject
from glm.datasets.multiple_choice.read import Wanted, read_benchmark
from glm.distributed.processes import (
    code_version,
    digest,
    from_rank_0,
    process_count,
    process_rank,
    require_agreement,
)
from glm.errors import UsageError
from glm.evaluation.multiple_choice.examinees import Examinee
from glm.evaluation.multiple_choice.journal import Journal
from glm.evaluation.multiple_choice.picture import NAME as PICTURE_NAME
from glm.evaluation.multiple_choice.picture import draw_subjects
from glm.evaluation.multiple_choice.prompts import FORMS
from glm.evaluation.multiple_choice.run import SCORED, WRITTEN, Unit, answer_all, units_of
from glm.evaluation.multiple_choice.scores import Scores
from glm.evaluation.replica import Replica
from glm.files.atomic import write_json
from glm.runtime import BACKENDS

RESULTS_NAME, SUBMISSION_NAME = "results.json", "submission.json"
SHOTS = 5  # of every published log-likelihood
# Flags of one kind that do nothing for the other.
OF_A_MODEL = ("lora_path", "dtype", "tensor_parallel_degree")
OF_AN_EXPORT = ("model_prefix", "backend", "device_id", "use_fp16", "cpu_threads", "kv_cache_size")


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked, and how."""
    group = parser.add_argument_group("benchmark")
    group.add_argument("--task", required=True, choices=list(BENCHMARKS), help="the benchmark, which says the layout")
    group.add_argument(
        "--data_path", required=True, metavar="DIR", help="folder of its dev/, val/ and test/, or a name on the Hub"
    )
    group.add_argument("--split", help="the split that is scored; default: test, ceval's is val")
    group.add_argument("--num_shots", type=int, help="answered questions before each; default: 5, 0 with --generate")
    group.add_argument(
        "--subjects", nargs="+", metavar="NAME", help="subjects or categories; default: all that are there"
    )
    group.add_argument("--limit", type=int, help="most questions of a subject, the first ones")
    group.add_argument("--skip_bad_rows", action="store_true", help="leave bad rows out and count them")
    group.add_argument(
        "--prompt_form",
        choices=FORMS,
        default="original",
        help="prompts as the benchmark's own code or lm_eval has them",
    )
    group.add_argument(
        "--generate", action="store_true", help="ask by the chat template and read the letter out of the answer"
    )
    group.add_argument("--tgt_length", type=int, help="with --generate: most tokens of an answer; default: 1024")
    add_thinking_argument(group)
    group.add_argument(
        "--batch_size", type=int, default=8, help="questions that are read together; an export scores them one by one"
    )
    group.add_argument("--output_dir", type=Path, help="what a run writes; default: output/TASK-MODEL")
    group.add_argument("--overwrite_output_dir", action="store_true", help="start anew, whatever the directory holds")


def check_benchmark(arguments: argparse.Namespace) -> None:
    """Fills in what was left open. Raises UsageError for numbers that cannot be and flags that do nothing."""
    for name, least in (("num_shots", 0), ("limit", 1), ("tgt_length", 1), ("batch_size", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}, and must be at least {least}")
    if arguments.tgt_length is not None and not arguments.generate:
        raise UsageError("--tgt_length is for answers in words: add --generate")
    if arguments.enable_thinking is not None and not arguments.generate:
        raise UsageError("--enable_thinking is for answers in words: add --generate")
    if arguments.kv_cache_size is not None and not arguments.generate:
        raise UsageError("--kv_cache_size is for answers in words, scores need room for one text: add --generate")
    if arguments.prompt_form != FORMS[0] and arguments.generate:
        raise UsageError(
            "--prompt_form is for log-likelihoods, and --generate asks by the chat template: leave one out"
        )
    if arguments.num_shots is None:
        arguments.num_shots = 0 if arguments.generate else SHOTS


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Who answers: a model or an export."""
    parser.add_argument("--device", help="npu, gpu or cpu; default: the best one present")
    group = parser.add_argument_group("a model")
    group.add_argument("--model_name_or_path", help="directory of a model, or a preset")
    group.add_argument(
        "--lora_path", type=Path, action="append", help="directory of a LoRA adapter; may be given again"
    )
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the model's own")
    group.add_argument(
        "--tensor_parallel_degree",
        type=int,
        help="processes of a launch that share a copy of the model; the copies share the questions; default: 1",
    )
    group = parser.add_argument_group("an export")
    group.add_argument("--model_path", "--model_dir", dest="model_path", type=Path, help="directory of the export")
    group.add_argument("--model_prefix", help="name of the export in that directory; default: glm")
    group.add_argument("--backend", choices=list(BACKENDS), help="what runs it; default: the fastest")
    group.add_argument("--device_id", type=int, help="number of the GPU or NPU; default: 0")
    group.add_argument("--use_fp16", action="store_true", default=None, help="half precision, on GPU and NPU")
    group.add_argument("--cpu_threads", type=int, help="threads on the CPU; default: one per core")
    group.add_argument("--kv_cache_size", type=size, help="with --generate: most key/value cache, such as 2GiB")


def check_model(arguments: argparse.Namespace) -> None:
    """Raises UsageError unless there is one model or one export, with the flags of its own kind."""
    if (arguments.model_name_or_path is None) == (arguments.model_path is None):
        raise UsageError("give --model_name_or_path for a model, or --model_path for an export: one of them")
    kind, foreign = ("a model", OF_AN_EXPORT) if arguments.model_name_or_path else ("an export", OF_A_MODEL)
    if given := [name for name in foreign if getattr(arguments, name) is not None]:
        raise UsageError(f"--{given[0]} does nothing for {kind}: leave it out")
    degree = arguments.tensor_parallel_degree
    if degree is not None and degree < 1:
        raise UsageError(f"tensor_parallel_degree is {degree}, and must be at least 1")


def evaluate(
    arguments: argparse.Namespace,
    model: Mapping[str, Any],
    open_examinee: Callable[[Benchmark], Examinee],
    replica: Replica,
) -> None:
    """The whole of an evaluation; every process of a launch calls it.

    Args:
        arguments: of `add_benchmark_arguments`, checked, with an `output_dir`.
        model: what tells it from others, by its name in words.
        open_examinee: loads it; not called where a run has all its answers.
        replica: which copy of the model this process belongs to.
    """
    benchmark = BENCHMARKS[arguments.task]
    subjects, notes = _read(arguments, benchmark)
    data = digest(*map(repr, subjects))
    facts = {"the code": code_version(), "the arguments": command_line(sys.argv[1:]), "the data": data}
    require_agreement(facts)
    for line in notes:
        note(f"{arguments.data_path}: {line}")
    least = WRITTEN if arguments.generate else SCORED
    units = units_of(subjects, max(least, arguments.batch_size))
    run = _run(arguments, benchmark, model, data)
    journals: list[Journal] = []

    def begin() -> list[str]:
        journals.append(_open(arguments, run, units))
        return [str(_done(units, len(journals[0].records)))]

    done = int(from_rank_0(begin)[0])
    journal = journals[0] if journals else None
    if done and journal:
        note(f"{len(journal.records)} answers are in {journal.path}: going on behind them")
    if done < len(units):
        answer_all(units, done, open_examinee(benchmark), journal, replica, process_rank() == 0)
    if journal:
        journal.close()
        _report(arguments, benchmark, run, journal)


def _open(arguments: argparse.Namespace, run: Mapping[str, Any], units: list[Unit]) -> Journal:
    """The journal of a run; with --overwrite_output_dir what another run reported is removed with its answers."""
    sizes = [len(unit.questions) for unit in units]
    journal = Journal(arguments.output_dir, run, sizes, arguments.overwrite_output_dir)
    if arguments.overwrite_output_dir:
        for name in (RESULTS_NAME, SUBMISSION_NAME, PICTURE_NAME):
            (arguments.output_dir / name).unlink(missing_ok=True)
    return journal


def _read(arguments: argparse.Namespace, benchmark: Benchmark) -> tuple[list[Subject], list[str]]:
    wanted = Wanted(
        arguments.split, arguments.num_shots, arguments.subjects or (), arguments.limit, arguments.skip_bad_rows
    )
    return read_benchmark(benchmark, arguments.data_path, wanted)


def _done(units: list[Unit], records: int) -> int:
    """How many units have all their records."""
    for place, unit in enumerate(units):
        if records < len(unit.questions):
            return place
        records -= len(unit.questions)
    return len(units)


def _run(arguments: argparse.Namespace, benchmark: Benchmark, model: Mapping[str, Any], data: str) -> dict[str, Any]:
    """What the answers depend on, by its name in words."""
    asked = {"tgt_length": arguments.tgt_length} if arguments.generate else {"prompt_form": arguments.prompt_form}
    if arguments.enable_thinking is not None:
        asked["enable_thinking"] = arguments.enable_thinking
    return {
        "task": benchmark.name,
        "split": arguments.split or benchmark.split,
        "method": "generated text" if arguments.generate else "log-likelihood",
        "num_shots": arguments.num_shots,
        **asked,
        "subjects": arguments.subjects,
        "limit": arguments.limit,
        "the data's digest": data,
        **model,
    }


def _report(arguments: argparse.Namespace, benchmark: Benchmark, run: Mapping[str, Any], journal: Journal) -> None:
    """Writes results and picture, or what is handed in; prints the table and the last line."""
    directory = arguments.output_dir
    if run["split"] in benchmark.hidden:
        _hand_in(journal, directory / SUBMISSION_NAME)
        return
    scores = Scores.of(benchmark, journal.records, arguments.num_shots)
    write_json(directory / RESULTS_NAME, {"run": run, **scores.to_json(), "questions": journal.records})
    named = {name: run[name] for name in ("task", "split", "method", "num_shots")}
    title = f"{benchmark.name} {named['split']}, {named['method']}, {named['num_shots']} shots"
    draw_subjects(benchmark, scores, f"{title}: {scores.total.acc:.4f}", directory / PICTURE_NAME)
    rows = [(name, each.question_n, f"{each.acc:.6f}") for name, each in scores.subjects.items()]
    categories = [(name, each.question_n, f"{each.acc:.6f}") for name, each in scores.categories.items()]
    totals = [
        ("total", scores.total.question_n, f"{scores.total.acc:.6f}"),
        ("mean of the subjects", len(scores.subjects), f"{scores.macro:.6f}"),
    ]
    print_table(title, ("subject", "question_n", "acc"), [rows, categories, totals])
    for name, count in scores.notes.items():
        note(f"{count} of {scores.total.question_n} questions were {name}")
    total = scores.total
    print(
        f"{benchmark.name} acc = {total.correct}/{total.question_n} = {total.acc:.4f}; mean of {len(scores.subjects)} "
        f"subjects {scores.macro:.4f}; {directory / RESULTS_NAME}"
    )


def _hand_in(journal: Journal, path: Path) -> None:
    """Writes {subject: {id: letter}}, as C-Eval takes it, and prints how many answers it has of each subject."""
    answers: dict[str, dict[str, str]] = {}
    for record in journal.records:
        answers.setdefault(record["subject"], {})[record["id"]] = record["letter"]
    write_json(path, answers)
    print_table("answers", ("subject", "question_n"), [[(name, len(some)) for name, some in answers.items()]])
    print(f"{len(journal.records)} answers to hand in, whose right ones are hidden: {path}")


def output_dir_of(arguments: argparse.Namespace, name: str) -> Path:
    """Where a run of a model of this name writes, if nobody says. Raises UsageError for a file."""
    way = "-generate" if arguments.generate else ""
    model = (Path(name).resolve() if is_directory(name) else Path(name)).name
    directory = arguments.output_dir or Path("output") / f"{arguments.task}-{model}{way}"
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"output_dir {directory} is a file: choose another")
    return directory


def require_one_process(what: str) -> None:
    """Raises UsageError in a launch of several processes."""
    if process_count() > 1:
        raise UsageError(f"{what} runs in one process, and {process_count()} were launched: leave the launcher out")

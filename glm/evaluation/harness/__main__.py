"""The command `python -m glm.evaluation.harness`."""

import logging
import sys
from argparse import Namespace
from pathlib import Path

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.argument_file import command_line
from glm.cli.export_flags import export_options
from glm.cli.script import ScriptParser, run_script
from glm.device.tuning import usable_cores
from glm.distributed.processes import code_version, process_count, process_rank, require_agreement
from glm.errors import GLMError, UsageError
from glm.files.atomic import write_bytes, write_json
from glm.runtime import BACKENDS

DESCRIPTION = """\
Score a model or an export on tasks of lm-evaluation-harness (pip install -r requirements-harness.txt).

  python -m glm.evaluation.harness --model_name_or_path glm-4-9b --tasks mmlu --num_fewshot 5
  python -m glm.evaluation.harness --model_name_or_path glm-4-9b-chat --tasks ifeval --apply_chat_template
  python -m glm.evaluation.harness --model_path checkpoints/infer --tasks my_task --include_path my_tasks --limit 20
  python -m paddle.distributed.launch --devices 0,1 glm/evaluation/harness/__main__.py …   two devices share the model

Data of published tasks come from the hub; a task of your own is a YAML file in --include_path, with dataset_path csv or
json and data_files of this computer."""


def parse() -> Namespace:
    parser = ScriptParser(DESCRIPTION, prog="python -m glm.evaluation.harness")
    model = parser.add_argument_group("model, or export").add_argument
    model("--model_name_or_path", help="directory of a model, or a preset")
    model("--lora_path", type=Path, action="append", help="adapter to merge in; given again, another one behind it")
    model("--dtype", choices=("float32", "bfloat16", "float16"), help="of a model; default: its own")
    model("--model_path", type=Path, help="directory of an export, instead of a model")
    model("--model_prefix", default="glm", help="name of the export in that directory")
    model("--backend", choices=list(BACKENDS), help="what runs the export")
    model("--cpu_threads", type=int, default=usable_cores(), help="of an export, on the CPU")
    model("--device", help="npu, gpu or cpu; default: the best one present")
    tasks = parser.add_argument_group("tasks").add_argument
    tasks("--tasks", required=True, help="names of tasks and groups, with commas between them")
    tasks("--include_path", type=Path, help="a directory with YAML files of tasks besides lm_eval's own")
    tasks("--num_fewshot", type=int, help="examples before each question; default: the task's own number")
    tasks("--limit", type=float, help="only so many questions of each task, or below 1 that share of them")
    tasks("--apply_chat_template", action="store_true", help="questions as messages of a conversation, for chat models")
    tasks("--system_instruction", help="a system message before them")
    tasks("--gen_kwargs", help="options of generating tasks to change: max_gen_toks=512,temperature=0")
    tasks("--bootstrap_iters", type=int, default=100000, help="of the standard errors; 0: none")
    run = parser.add_argument_group("run").add_argument
    run("--batch_size", type=int, default=8, help="rows and prompts that are read together")
    run("--max_length", type=int, help="most tokens of a text, whose beginning is left out; default: the model's")
    run("--output_path", type=Path, help="write the results there, as JSON")
    run("--log_samples", action="store_true", help="and every question beside it, in OUTPUT_PATH.samples.jsonl")
    run("--use_cache", type=Path, help="keep answers in files that begin so: a run that was killed goes on there")
    return parser.parse_args()


def check(arguments: Namespace) -> None:
    """Raises UsageError for flags that do not go together."""
    if (arguments.model_name_or_path is None) == (arguments.model_path is None):
        raise UsageError("give either --model_name_or_path or --model_path (see --help)")
    if arguments.model_path and (arguments.lora_path or arguments.dtype):
        raise UsageError("--lora_path and --dtype are for models: an export has its adapter and dtype in it")
    if arguments.batch_size < 1:
        raise UsageError(f"batch_size is {arguments.batch_size}, and must be at least 1")
    if arguments.include_path and not arguments.include_path.is_dir():
        raise UsageError(f"include_path {arguments.include_path} is not a directory: give the one of the YAML files")
    if arguments.log_samples and not arguments.output_path:
        raise UsageError("--log_samples writes beside the results: give --output_path, too")
    if arguments.limit is not None and arguments.limit <= 0:
        raise UsageError(f"limit is {arguments.limit:g}, and must be above 0")
    if process_count() > 1 and (arguments.model_path or arguments.use_cache):
        flag = "model_path" if arguments.model_path else "use_cache"
        raise UsageError(f"--{flag} is for one process, and {process_count()} were launched: leave out the launcher")


def load_tasks(arguments: Namespace) -> tuple[list, object]:
    """Tasks by name with their data, and lm_eval's manager of them. Raises GLMError where one cannot be loaded."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(arguments.include_path) if arguments.include_path else None)
    names = [name for name in arguments.tasks.split(",") if name]
    known = manager.match_tasks(names)
    if unknown := [name for name in names if name not in known and "*" not in name]:
        raise UsageError(f"task '{unknown[0]}' is unknown to lm_eval: name one of its tasks, or add --include_path")
    if not known:
        raise UsageError(f"no task is called {arguments.tasks!r}")
    return known, manager


def open_generator(arguments: Namespace):
    """The model on the devices of this launch, or the export."""
    if arguments.model_path:
        from glm.inference.exported import open_export

        generator, choice = open_export(export_options(arguments, scores=True))
        print(choice, file=sys.stderr)
        return generator
    from glm.api.predictor import Predictor

    return Predictor.load(
        arguments.model_name_or_path, arguments.lora_path, dtype=arguments.dtype, device=arguments.device
    )


def evaluate(arguments: Namespace) -> dict:
    """lm_eval's results."""
    from glm.evaluation.harness import HarnessLM

    names, manager = load_tasks(arguments)  # before a model is loaded
    lm = HarnessLM(open_generator(arguments), arguments.batch_size, arguments.max_length)

    from lm_eval import simple_evaluate

    limit = arguments.limit if arguments.limit is None or arguments.limit < 1 else int(arguments.limit)
    try:
        return simple_evaluate(
            lm,
            tasks=names,
            num_fewshot=arguments.num_fewshot,
            batch_size=arguments.batch_size,
            limit=limit,
            bootstrap_iters=arguments.bootstrap_iters,
            log_samples=arguments.log_samples,
            system_instruction=arguments.system_instruction,
            apply_chat_template=arguments.apply_chat_template,
            gen_kwargs=arguments.gen_kwargs,
            use_cache=str(arguments.use_cache) if arguments.use_cache else None,
            task_manager=manager,
        )
    except (ValueError, KeyError, FileNotFoundError, ConnectionError) as error:  # of tasks and their data
        raise GLMError(f"lm_eval: {type(error).__name__}: {error}") from error


def write(results: dict, arguments: Namespace) -> None:
    """The results, and the samples in lines beside them."""
    import json

    from lm_eval.utils import handle_non_serializable

    samples = results.pop("samples", {})
    results["config"]["model"] = str(arguments.model_name_or_path or arguments.model_path)
    arguments.output_path.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output_path, results, default=handle_non_serializable)
    if arguments.log_samples:
        lines = [
            json.dumps({"task": task} | sample, ensure_ascii=False, default=handle_non_serializable)
            for task, found in samples.items()
            for sample in found
        ]
        path = arguments.output_path
        write_bytes(path.with_name(f"{path.name}.samples.jsonl"), "".join(f"{line}\n" for line in lines).encode())


def main() -> None:
    arguments = parse()
    check(arguments)
    require_agreement({"the code": code_version(), "the arguments": command_line(sys.argv[1:])})
    from glm.evaluation.harness import HarnessLM  # noqa: F401  (whether lm_eval is there is said first)

    if process_rank() > 0:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
    results = evaluate(arguments)
    if process_rank() == 0:
        from lm_eval.utils import make_table

        print(make_table(results))
        if "groups" in results:
            print(make_table(results, "groups"))
        if arguments.output_path:
            write(results, arguments)
            print(f"wrote {arguments.output_path}", file=sys.stderr)


if __name__ == "__main__":
    run_script(main)

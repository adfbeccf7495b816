"""Evaluates a model, or an export of one, on multiple-choice benchmarks: MMLU, C-Eval and CMMLU."""

import argparse
import sys

import glm  # noqa: F401  (tunes the CPU before Paddle starts)
from glm.cli.export_flags import export_options
from glm.cli.multiple_choice import (
    add_benchmark_arguments,
    add_model_arguments,
    check_benchmark,
    check_model,
    evaluate,
    output_dir_of,
    require_one_process,
)
from glm.cli.script import ScriptParser, run_script
from glm.distributed.processes import check_degrees, digest, process_count, process_rank
from glm.evaluation.multiple_choice.examinees import ByLikelihood, ByText, Examinee
from glm.evaluation.multiple_choice.prompts import form_of
from glm.evaluation.replica import Replica

DESCRIPTION = """\
Score a GLM, ChatGLM-6B, GLM-4-9B or GLM-4-0414 model on MMLU, C-Eval or CMMLU.

  python evaluate_generation.py --task mmlu --data_path mmlu --model_name_or_path glm-4-9b
  python evaluate_generation.py --task ceval --data_path ceval-exam --model_name_or_path glm-4-9b --subjects STEM law
  python evaluate_generation.py --task mmlu --data_path mmlu --model_name_or_path glm-4-9b-chat --generate
  python evaluate_generation.py … --lora_path output/lora              with an adapter
  python evaluate_generation.py … --model_path checkpoints/infer       an export, in place of a model
  python evaluate_generation.py --task ceval --split test …            the answers to hand in
  python -m paddle.distributed.launch --devices 0,1,2,3 evaluate_generation.py … --tensor_parallel_degree 2

It compares the log-likelihoods of the four letters behind five answered questions, or with --generate reads the letter
out of what a chat model writes. The same command goes on with a run that was killed."""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    add_benchmark_arguments(parser)
    add_model_arguments(parser)
    return parser.parse_args()


def examinee_of(arguments: argparse.Namespace, generator, benchmark) -> Examinee:
    """Who answers, with a loaded model or export."""
    if arguments.generate:
        generator.processor.set_thinking(arguments.enable_thinking)
        return ByText(generator, benchmark, arguments.batch_size)
    scorer = generator.scorer(arguments.batch_size)
    return ByLikelihood(scorer, benchmark, form_of(benchmark, arguments.prompt_form))


def evaluate_model(arguments: argparse.Namespace) -> None:
    from glm.api.loading import model_identity, model_source
    from glm.api.predictor import Predictor

    name, degree = arguments.model_name_or_path, arguments.tensor_parallel_degree or 1
    check_degrees(degree, 1, arguments.device or "")  # before anything is read

    def load(benchmark) -> Examinee:
        predictor = Predictor.load(
            name,
            arguments.lora_path,
            dtype=arguments.dtype,
            device=arguments.device,
            lengths=(None, arguments.tgt_length),
            tensor_parallel_degree=degree,
        )
        return examinee_of(arguments, predictor, benchmark)

    model = {
        "the model": model_source(name, arguments.lora_path),
        "the model's digest": model_identity(name, arguments.lora_path),
        "dtype": arguments.dtype,
    }
    evaluate(arguments, model, load, Replica(process_rank() // degree, process_count() // degree))


def evaluate_export(arguments: argparse.Namespace) -> None:
    from glm.export.files import exported_formats, manifest_suffix
    from glm.inference.exported import open_export

    require_one_process("an export")
    directory, prefix = arguments.model_path, arguments.model_prefix or "glm"

    def load(benchmark) -> Examinee:
        wanted = export_options(arguments, lengths=(None, arguments.tgt_length), scores=not arguments.generate)
        generator, choice = open_export(wanted)
        print(choice, file=sys.stderr)
        return examinee_of(arguments, generator, benchmark)

    manifests = [directory / f"{prefix}{manifest_suffix(each)}" for each in exported_formats(directory, prefix)]
    model = {
        "the export": f"{directory / prefix}",
        "the export's digest": digest(*(path.read_bytes() for path in manifests)),
        "backend": arguments.backend,
        "use_fp16": bool(arguments.use_fp16),
    }
    evaluate(arguments, model, load, Replica())


def main() -> None:
    arguments = parse()
    check_benchmark(arguments)
    check_model(arguments)
    arguments.output_dir = output_dir_of(arguments, str(arguments.model_name_or_path or arguments.model_path))
    (evaluate_model if arguments.model_name_or_path else evaluate_export)(arguments)


if __name__ == "__main__":
    run_script(main)

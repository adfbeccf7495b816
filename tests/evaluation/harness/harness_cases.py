"""Requests as lm-evaluation-harness makes them, a generator over a tiny model, and tasks with data of this computer."""

import csv
import textwrap
from dataclasses import dataclass
from pathlib import Path

from family_models import write_family_model

from glm.api.predictor import Predictor

LETTERS = "ABCD"


@dataclass(frozen=True)
class Request:
    """The one attribute of lm_eval's Instance that a model reads."""

    args: tuple


def predictor_of(directory: Path) -> Predictor:
    return Predictor.load(str(directory), device="cpu", plain=True)


def write_long_model(directory: Path, family: str = "glm4-remote") -> Path:
    """With room for five shots."""
    return write_family_model(directory, family, max_position_embeddings=8192)


def write_mmlu_task(folder: Path, subject: str, data: Path, name: str = "") -> str:
    """lm_eval's mmlu task on files of hendrycks' layout; returns its name."""
    name = name or f"local_mmlu_{subject}"
    spoken = subject.replace("_", " ")
    text = f"""\
        task: {name}
        dataset_path: csv
        dataset_kwargs:
          data_files:
            test: {data / "test" / f"{subject}_test.csv"}
            dev: {data / "dev" / f"{subject}_dev.csv"}
          column_names: [question, A, B, C, D, answer]
          keep_default_na: false
        test_split: test
        fewshot_split: dev
        fewshot_config:
          sampler: first_n
        output_type: multiple_choice
        description: "The following are multiple choice questions (with answers) about {spoken}.\\n\\n"
        doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{A}}}}\\nB. {{{{B}}}}\\nC. {{{{C}}}}\\nD. {{{{D}}}}\\nAnswer:"
        doc_to_choice: ["A", "B", "C", "D"]
        doc_to_target: answer
        metric_list:
          - metric: acc
            aggregation: mean
            higher_is_better: true
        """
    (folder / f"{name}.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
    return name


def write_generation_task(folder: Path, rows: Path, name: str = "local_generation") -> str:
    """A task whose answers are written: rows of {"question", "answer"} in JSON lines."""
    text = f"""\
        task: {name}
        dataset_path: json
        dataset_kwargs:
          data_files:
            test: {rows}
        test_split: test
        output_type: generate_until
        doc_to_text: "{{{{question}}}}"
        doc_to_target: "{{{{answer}}}}"
        generation_kwargs:
          until: ["。"]
          max_gen_toks: 12
          do_sample: false
        metric_list:
          - metric: exact_match
            aggregation: mean
            higher_is_better: true
        """
    (folder / f"{name}.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
    return name


def read_subject(data: Path, subject: str, split: str) -> list[list[str]]:
    with (data / split / f"{subject}_{split}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def question(row: list[str], answer: str = "") -> str:
    """As lm_eval's mmlu task writes it."""
    choices = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0].strip()}{choices}\nAnswer:{answer and f' {answer}'}"


def shots(data: Path, subject: str, count: int = 5) -> str:
    head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    return head + "".join(f"{question(row, row[5])}\n\n" for row in read_subject(data, subject, "dev")[:count])

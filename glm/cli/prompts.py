"""Texts in, generated texts out: what prediction with a model and inference with a graph have in common."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glm.cli.prompt_rows import Prompt, encoded, file_prompts, prompt_text, text_prompts
from glm.cli.script import add_thinking_argument
from glm.datasets.formats import JSON, TABLES, require_readable, split_name
from glm.datasets.tasks import TASKS
from glm.encoding.json_schema import response_grammar
from glm.encoding.processor import Processor
from glm.errors import GLMError, UsageError
from glm.files.atomic import atomic_write
from glm.files.foreign_files import HEAD, decode_text, stand_in
from glm.generation.options import GenerationConfig
from glm.inference.conversation import require_streaming

# Flags that are fields of `GenerationConfig`.
DECODING = (
    "num_beams",
    "length_penalty",
    "no_repeat_ngram_size",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
RESULT_NAME = "text_generation_result.txt"
NAMED_AS_FILES = (".txt", *JSON, *TABLES)
EXAMPLES = (
    "答案：1920年，上下文：云溪桥建于1920年，长30米，是石桥。",
    "答案：9层，上下文：祥信塔很有名，高72米，共有9层。",
)


@dataclass(frozen=True)
class Speed:
    """Tokens that were generated, end tokens included and padding not, and seconds."""

    tokens: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.tokens} tokens in {self.seconds:.2f} s: {self.tokens / max(self.seconds, 1e-9):.1f} tokens/s"


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Where texts come from and go to."""
    group = parser.add_argument_group("texts")
    group.add_argument(
        "texts", nargs="*", metavar="TEXT", help="source texts; - reads standard input, one text per line"
    )
    group.add_argument(
        "--input_file", type=Path, help="a file with one text per line, or a JSON file of rows as in training"
    )
    group.add_argument(
        "--task_name", choices=list(TASKS), help="how the rows of a JSON file become prompts; default: by their fields"
    )
    group.add_argument("--output_file", type=Path, help="write the generated texts there as well, one text per line")
    group.add_argument(
        "--predict_data", help="a text, or a file as --input_file takes; the results go to text_generation_result.txt"
    )
    group.add_argument(
        "--batch_size", "--predict_batch_size", type=int, default=2, help="texts that are generated together"
    )
    group.add_argument("--src_length", type=int, help="most tokens of a source text; default: 200, chat models 7168")
    group.add_argument("--tgt_length", type=int, help="most tokens of a generated text; default: 20, chat models 1024")
    group.add_argument("--no_block_position", action="store_true", help="as in fine-tuning; GLM (2021) only")
    group.add_argument("--plain", action="store_true", help="the text as it is, without chat template: for base models")
    add_thinking_argument(group)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `GenerationConfig`."""
    group = parser.add_argument_group("decoding")
    group.add_argument("--min_tgt_length", type=int, help="no end token before this many tokens")
    group.add_argument("--num_beams", type=int, help="beams of the search; 1 = greedy or sampling")
    group.add_argument(
        "--length_penalty", type=float, help="exponent of the length in a beam's rank; 0.7, chat models 1"
    )
    group.add_argument("--no_repeat_ngram_size", type=int, help="no n-gram of this size twice; 0 = off")
    group.add_argument(
        "--do_sample", action=argparse.BooleanOptionalAction, help="draw tokens instead of taking the most likely"
    )
    group.add_argument("--temperature", type=float, help="divides the logits before drawing; 1; 0 = do not draw")
    group.add_argument(
        "--top_k",
        type=int,
        help="draw from the k most likely tokens; 0 = all; default: generation_config.json's, where it says none the "
        "50 of the models' own libraries",
    )
    group.add_argument("--top_p", type=float, help="draw from the nucleus of this mass of what top_k left; 0 = all")
    group.add_argument("--min_p", type=float, help="draw from tokens at least so likely beside the likeliest; 0 = all")
    group.add_argument("--repetition_penalty", type=float, help="makes what prompt or text said less likely; 1 = off")
    group.add_argument("--presence_penalty", type=float, help="off the score of what the text said; -2 to 2; 0 = off")
    group.add_argument("--frequency_penalty", type=float, help="the same for every time it did; -2 to 2; 0 = off")
    group.add_argument("--seed", type=int, default=0, help="of the drawing")
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="STRING",
        help="ends a text, and is not part of it; may be given again",
    )


def add_guide_arguments(parser: argparse.ArgumentParser) -> None:
    """What every text is held to."""
    group = parser.add_argument_group("guided output")
    group.add_argument(
        "--response_format",
        choices=["text", "json_object"],
        default="text",
        help="json_object: every text is one JSON object",
    )
    group.add_argument(
        "--json_schema",
        type=Path,
        metavar="FILE",
        help="every text is JSON of the JSON schema in this file (docs/inference.md)",
    )


def response_format(arguments: argparse.Namespace) -> dict | None:
    """OpenAI's `response_format` of the flags, None for any text.

    Raises:
        UsageError: a file that is no JSON schema, or a schema that texts cannot be held to; beams.
    """
    if arguments.json_schema is None and arguments.response_format == "text":
        return None
    if arguments.json_schema is not None and arguments.response_format != "text":
        raise UsageError("--json_schema and --response_format json_object both ask for JSON: choose one")
    if (arguments.num_beams or 1) > 1:
        raise UsageError(f"JSON is written by one beam, and num_beams is {arguments.num_beams}: leave it out")
    if arguments.json_schema is None:
        return {"type": "json_object"}
    _require_file(arguments.json_schema)
    try:
        schema = json.loads(_read(arguments.json_schema))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{arguments.json_schema} is not JSON ({error})") from None
    wanted = {"type": "json_schema", "json_schema": {"name": arguments.json_schema.stem, "schema": schema}}
    response_grammar(wanted)
    return wanted


def add_dialogue_arguments(parser: argparse.ArgumentParser) -> None:
    """Ways to see text while it is generated."""
    parser.add_argument("--stream", action="store_true", help="show each token as soon as it is generated")
    parser.add_argument("--chat", action="store_true", help="hold a conversation: questions from standard input")
    parser.add_argument("--system", help="instructions before the first question of --chat")


def check_dialogue(arguments: argparse.Namespace) -> None:
    """Raises UsageError for flags that do nothing in a conversation, or outside of one, or that cannot be streamed."""
    if arguments.system is not None and not arguments.chat:
        raise UsageError("--system begins a conversation: add --chat")
    useless = {
        "TEXT": arguments.texts,
        "--input_file": arguments.input_file,
        "--predict_data": arguments.predict_data,
        "--output_file": arguments.output_file,
        "--plain": arguments.plain,
    }
    if given := [name for name, value in useless.items() if arguments.chat and value]:
        raise UsageError(f"--chat reads questions from standard input and prints the answers: leave out {given[0]}")
    if arguments.stream or arguments.chat:
        require_streaming(generation_config(arguments))


def generation_config(arguments: argparse.Namespace, processor: Processor | None = None) -> GenerationConfig:
    """The flags, then what generation_config.json says, then the defaults of the kind of model.

    Args:
        processor: of the model; None checks the flags before there is one.
    """
    flags = {name: value for name in DECODING if (value := getattr(arguments, name)) is not None}
    lengths = {"max_length": arguments.tgt_length, "min_length": arguments.min_tgt_length, "seed": arguments.seed}
    flags |= {name: value for name, value in lengths.items() if value is not None}
    return (
        processor.generation_config(**flags) if processor else GenerationConfig(**{"max_length": sys.maxsize} | flags)
    )


def read_prompts(arguments: argparse.Namespace) -> list[Prompt]:
    """The prompts that the command line names; two examples if it names none.

    Raises:
        UsageError: an empty or unreadable source of texts, or a batch size below 1.
    """
    if arguments.batch_size < 1:
        raise UsageError(f"batch_size is {arguments.batch_size}, and must be at least 1")
    if arguments.output_file is not None:
        _check_output(arguments.output_file)
    if arguments.predict_data is not None:
        _check_output(Path(RESULT_NAME))
    ways = {"TEXT": arguments.texts or None, "--input_file": arguments.input_file}
    ways |= {"--predict_data": arguments.predict_data}
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"texts come from {' and from '.join(given)}: choose one")
    if not given:
        print("no text given: generating for two examples", file=sys.stderr)
        return list(EXAMPLES)
    texts = _given_prompts(arguments)
    for number, text in enumerate(texts, 1):
        if not _is_utf8(encoded(text)):
            raise UsageError(f"text {number} of {len(texts)} is not UTF-8: convert it first")
    return texts


def _given_prompts(arguments: argparse.Namespace) -> list[Prompt]:
    if arguments.predict_data is not None:
        return _text_or_file(arguments.predict_data, arguments.task_name)
    if arguments.input_file is not None:
        return _of_file(arguments.input_file, arguments.task_name)
    if arguments.texts == ["-"]:
        return _rows_or_lines(_read_stdin(), "standard input", arguments.task_name)
    return arguments.texts


def _of_file(path: Path, task_name: str | None) -> list[Prompt]:
    """The rows of a file that is called as one of data, else its lines."""
    _require_file(path)
    if split_name(path.name)[1]:
        require_readable(path)
        prompts, notes = file_prompts(path, task_name)
        print(*notes, sep="\n", file=sys.stderr)
        return prompts
    return _rows_or_lines(_read(path), str(path), task_name)


def _rows_or_lines(content: str, where: str, task_name: str | None) -> list[Prompt]:
    """A text per line, unless all of them are JSON objects."""
    content = content.replace("\ufeff", "")  # of files that were joined
    if found := text_prompts(content, where, task_name):
        print(*found[1], sep="\n", file=sys.stderr)
        return found[0]
    return _lines(content, where)


def _text_or_file(given: str, task_name: str | None) -> list[Prompt]:
    """A text, or those of a file. What looks like a file's name and is none was mistyped."""
    path = Path(given)
    if not given.strip():
        raise UsageError("predict_data is empty: give a text, or a file with one text per line")
    if _exists(path) or (path.suffix.lower() in NAMED_AS_FILES and not any(map(str.isspace, given))):
        return _of_file(path, task_name)
    return [given]


def show_completions(
    texts: Sequence[Prompt], results: Sequence[str], speed: Speed, arguments: argparse.Namespace
) -> None:
    """Prints each text with its result, writes the results where they were asked for, and says how fast it went."""
    write_completions(texts, results, arguments)  # first: who reads the screen may have left
    for text, result in zip(texts, results, strict=True):
        print(f"{prompt_text(text)}\n  → {result}")
    print(speed, file=sys.stderr)


def write_completions(texts: Sequence[Prompt], results: Sequence[str], arguments: argparse.Namespace) -> None:
    """Writes the results where they were asked for: one text per line, or for --predict_data a JSON object per line."""
    if arguments.output_file is not None:
        _write(arguments.output_file, (" ".join(result.splitlines()) for result in results))
    if arguments.predict_data is not None:
        pairs = zip(map(prompt_text, texts), results, strict=True)
        rows = ({"text": text, "text_generation_text": [result]} for text, result in pairs)
        _write(Path(RESULT_NAME), (json.dumps(row, ensure_ascii=False) for row in rows))
        print(f"results written to {RESULT_NAME}", file=sys.stderr)


def report_truncation(processor: Processor) -> None:
    """Says how many sources were cut, if any."""
    count = processor.truncated["source"]
    if count:
        print(f"{count} text(s) cut to src_length {processor.src_length}: {processor.cuts['source']}", file=sys.stderr)


def _check_output(path: Path) -> None:
    """Finds out before anything is generated what would make the results impossible to write."""
    if path.is_dir():
        raise UsageError(f"output_file {path} is a directory: give a file's name in it")
    if not path.parent.is_dir():
        raise UsageError(f"output_file {path}: {path.parent} is not a directory")
    place = path if path.exists() and not path.is_file() else path.resolve().parent
    if not os.access(place, os.W_OK):
        raise UsageError(f"output_file {path}: {place} cannot be written; choose another directory")


def _write(path: Path, lines: Iterable[str]) -> None:
    """A file appears whole or not at all, behind a link as well; a pipe or device takes lines as they are."""
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        return
    with atomic_write(path.resolve(), "w", "utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is too long for a name, or holds what no name does
        return False


def _is_utf8(text: str) -> bool:
    """Bytes of the command line that are not UTF-8 reach Python as half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_stdin() -> str:
    try:
        return sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise GLMError(f"standard input is not UTF-8 (byte {error.start}): convert it first") from None


def _read(path: Path) -> str:
    content = path.read_bytes()
    if what := stand_in(content[:HEAD]):
        raise GLMError(f"{path} {what}")
    return decode_text(content, str(path))


def _require_file(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _lines(content: str, where: str) -> list[str]:
    lines = [line.strip() for line in content.removesuffix("\n").split("\n")]
    texts = [line for line in lines if line]
    if not texts:
        raise UsageError(f"{where} holds no text")
    if blank := len(lines) - len(texts):
        print(f"{where}: {blank} blank line(s) left out", file=sys.stderr)
    if objects := sum(line.startswith("{") and line.endswith("}") for line in texts):
        print(f"{where}: {objects} line(s) that look like JSON are asked as they are, others are text", file=sys.stderr)
    return texts

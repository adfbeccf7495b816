"""What prediction with a model and inference with a graph do for a user: texts, streams and conversations."""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

from glm.cli.prompt_rows import Prompt, prompt_ids, prompt_text
from glm.cli.prompts import Speed, generation_config, report_truncation, show_completions, write_completions
from glm.cli.terminal import converse
from glm.distributed.processes import process_rank
from glm.errors import GLMError
from glm.generation.options import GenerationConfig
from glm.inference.conversation import require_streaming
from glm.inference.generator import TextGenerator


def answer(generator: TextGenerator, texts: Sequence[Prompt], arguments: argparse.Namespace) -> None:
    """What the arguments ask for: a conversation, or what follows the texts, at once or streamed.

    All processes of a launch generate; the first one prints and writes.
    """
    generator.processor.set_thinking(arguments.enable_thinking)
    config, speaks = generation_config(arguments, generator.processor), process_rank() == 0
    if arguments.chat:
        converse(lambda: generator.conversation(config, arguments.system))
    elif arguments.stream:
        require_streaming(config)
        results = stream_completions(texts, generator, config, sys.stdout if speaks else io.StringIO())
        if speaks:
            write_completions(texts, results, arguments)
    else:
        results, speed = generate_completions(texts, generator, config, arguments.batch_size)
        if speaks:
            show_completions(texts, results, speed, arguments)
    if speaks:
        if notes := generator.notes():
            print(notes, file=sys.stderr)
        report_truncation(generator.processor)


def generate_completions(
    texts: Sequence[Prompt], generator: TextGenerator, config: GenerationConfig, batch_size: int
) -> tuple[list[str], Speed]:
    """Generates for all texts, at most `batch_size` at a time.

    Returns:
        A text for each, and how fast it went.
    """
    prompts, results, tokens = prompts_of(texts, generator), {}, 0
    quiet = len(texts) <= batch_size or process_rank() > 0
    start = time.perf_counter()
    written = generator.results(prompts, config, batch_size)
    for place, ids in tqdm(written, desc="generate", total=len(texts), leave=False, disable=quiet):
        results[place] = generator.answer(ids)
        tokens += len(ids)
    return [results[place] for place in range(len(texts))], Speed(tokens, time.perf_counter() - start)


def prompts_of(texts: Sequence[Prompt], generator: TextGenerator) -> list[list[int]]:
    """The prompt of each text.

    Raises:
        GLMError: one that does not fit, with its place among many.
    """
    prompts = []
    for number, text in enumerate(texts, 1):
        try:
            prompts.append(prompt_ids(generator.processor, text))
        except GLMError as error:
            raise type(error)(f"text {number} of {len(texts)}: {error}" if len(texts) > 1 else str(error)) from None
    return prompts


def stream_completions(
    texts: Sequence[Prompt], generator: TextGenerator, config: GenerationConfig, out: TextIO
) -> list[str]:
    """Shows each text and what follows it while that is generated."""
    results = []
    prompts = prompts_of(texts, generator)  # a text that does not fit is found before the first is shown
    for text, ids in zip(texts, prompts, strict=True):
        print(prompt_text(text), end="\n  → ", file=out)
        pieces = []
        tokens = generator.stream_tokens(ids, config)
        for piece in generator.processor.stream(tokens, generator.stop_strings):
            print(piece, end="", flush=True, file=out)
            pieces.append(piece)
        print(file=out)
        results.append("".join(pieces).strip())
    return results

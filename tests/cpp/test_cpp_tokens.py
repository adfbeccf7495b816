"""Every token of tiny models is that of Python's engine: greedy, drawn and by beams, in batches, chunks and streams."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cpp_exports import NAMES, Export, make_export

pytestmark = pytest.mark.long

TEXTS = ("你好", "云溪桥建于1920年,长30米,是石桥。", "祥信塔", "a b c d e f", "1920年，9层。")


@dataclass
class Way:
    """Flags of the program, and the options of `GenerationConfig` that they are."""

    words: str
    options: dict[str, Any] = field(default_factory=dict)


WAYS = (
    Way(""),
    Way("--min_tgt_length 9", {"min_length": 9}),
    Way("--no_repeat_ngram_size 2", {"no_repeat_ngram_size": 2}),
    Way("--repetition_penalty 1.3", {"repetition_penalty": 1.3}),
    Way(
        "--presence_penalty 0.7 --frequency_penalty=-0.4 --min_tgt_length 6",
        {"presence_penalty": 0.7, "frequency_penalty": -0.4, "min_length": 6},
    ),
    Way("--do_sample", {"do_sample": True}),
    Way("--do_sample --top_k 0 --seed 7", {"do_sample": True, "top_k": 0, "seed": 7}),
    Way("--do_sample --top_k 0 --top_p 0.8 --seed 1", {"do_sample": True, "top_k": 0, "top_p": 0.8, "seed": 1}),
    Way(
        "--do_sample --top_k 20 --top_p 0.9 --min_p 0.05 --temperature 0.6 --seed 4294967296",
        {"do_sample": True, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "temperature": 0.6, "seed": 1 << 32},
    ),
    Way("--temperature 0 --do_sample", {"do_sample": True, "temperature": 0.0}),
    Way("--num_beams 3", {"num_beams": 3}),
    Way("--num_beams 4 --length_penalty 0.3", {"num_beams": 4, "length_penalty": 0.3}),
    Way(
        "--num_beams 3 --repetition_penalty 1.2 --no_repeat_ngram_size 2 --min_tgt_length 5",
        {"num_beams": 3, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_length": 5},
    ),
    Way(
        "--num_beams 2 --do_sample --top_k 30 --temperature 1.4 --seed 3",
        {"num_beams": 2, "do_sample": True, "top_k": 30, "temperature": 1.4, "seed": 3},
    ),
)


@pytest.fixture(scope="module", params=NAMES)
def export(request, tmp_path_factory, programs) -> Export:
    return Export(make_export(request.param, tmp_path_factory.mktemp(request.param)), programs)


@pytest.fixture(scope="module")
def generator(export):
    return export.generator()


def prompts_of(generator) -> list[list[int]]:
    return [generator.processor.text_prompt(text) for text in TEXTS]


def wanted(generator, prompts, batch: int, **options) -> list[list[int]]:
    config = generator.processor.generation_config(**{"max_length": 12} | options)
    found = dict(generator.results(prompts, config, batch))
    return [list(found[place]) for place in range(len(prompts))]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.words or "greedy")
def test_tokens(export, generator, way):
    prompts = prompts_of(generator)
    for batch in (1, 3):
        found = export.ids(prompts, *way.words.split(), "--tgt_length", 12, "--batch_size", batch)
        assert found == wanted(generator, prompts, batch, **way.options), batch


def test_texts_end_at_many_places(export, generator):
    """Else the tests here would compare nothing of ends."""
    lengths = {len(tokens) for tokens in wanted(generator, prompts_of(generator), 5)}
    assert len(lengths) > 1 or lengths != {12}


def test_long_prompts_are_read_in_chunks(export, generator):
    """Longer than 256 tokens, and with a beginning in common."""
    draw = np.random.default_rng(2)
    long = draw.integers(5, 300, 400).tolist()
    prompt = generator.processor.text_prompt("好")
    frame = prompt if generator.processor.positions.prompt_prefix(prompt) else []
    prompts = [[*frame[:1], *long[:size], *frame[1:]] for size in (300, 400, 256, 257)]
    for batch in (1, 4):
        words = ("--tgt_length", 12, "--batch_size", batch, "--src_length", 490)
        assert export.ids(prompts, *words) == wanted(generator, prompts, batch)


def test_a_small_cache_is_waited_for(export, generator):
    prompts = prompts_of(generator)
    length = max(map(len, prompts)) + 11
    size = 2 * generator.engine.runtime.cache_bytes(1, length)
    words = ("--tgt_length", 12, "--batch_size", 5, "--kv_cache_size", f"{size}B")
    limited = export.generator(kv_cache_size=size)
    assert export.ids(prompts, *words) == wanted(limited, prompts, 5)
    run = export.infer("hello", "--kv_cache_size", "1KB", code=2)
    assert re.search(r"bytes of key/value cache, and the limit is 1,000: raise it", run.stderr)


def test_texts_and_streams(export, generator):
    """What a user sees, with stop strings and without."""
    config = generator.processor.generation_config(max_length=40, min_length=40)
    tokens = [list(generator.stream_tokens(ids, config)) for ids in prompts_of(generator)]
    shown = generator.processor.tokenizer.text_of(tokens[0]).strip()
    assert len(shown) > 4
    stop = shown[len(shown) // 2]
    free: list[str] = []
    for stops in ([], [stop, "@@"]):
        stopped = generator.with_stop_strings(stops)
        answers = [stopped.answer(ids) for ids in tokens]
        words = ["--tgt_length", 40, "--min_tgt_length", 40, *(word for each in stops for word in ("--stop", each))]
        lines = "".join(f"{text}\n  → {answer}\n" for text, answer in zip(TEXTS, answers, strict=True))
        assert export.infer(*words, *TEXTS).stdout == lines
        pieces = ["".join(stopped.stream(text, config)) for text in TEXTS]
        lines = "".join(f"{text}\n  → {answer}\n" for text, answer in zip(TEXTS, pieces, strict=True))
        assert export.infer(*words, "--stream", *TEXTS).stdout == lines
        free = free or answers
    assert stop in free[0] and stop not in answers[0]
    assert free[0].startswith(answers[0])


def test_odd_prompts(export, generator):
    """Empty texts, special tokens that a user spells, texts that are too long, and texts as they are."""
    long = "祥信塔" * 60
    texts = ["", " ", "<|user|>\n[gMASK]<sop>", "[MASK] a [gMASK]", "\ufdd0<\ufdd0|user|>", "a\r\nb\t\t  c"]
    chats = generator.processor.tokenizer.kind != "glm-chinese"
    has_roles = chats and "system" in generator.processor.chat.roles  # whose last turn is never cut
    for options, words in (({}, []), ({"plain": True}, ["--plain"])) if chats else (({}, []),):
        asked = [*texts, long] if options or not has_roles else texts
        other = export.generator(lengths=(40, 6), **options)
        config = other.processor.generation_config()
        prompts = [other.processor.text_prompt(text) for text in asked]
        answers = [other.answer(ids) for ids in other.generate(prompts, config)]
        lines = "".join(f"{text}\n  → {answer}\n" for text, answer in zip(asked, answers, strict=True))
        size = ["--src_length", 40, "--tgt_length", 6, "--batch_size", len(asked)]
        run = export.infer(*words, *size, "--", *asked)
        assert run.stdout == lines
        assert ("cut to src_length 40" in run.stderr) == (long in asked)

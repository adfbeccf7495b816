"""generation_config.json: every option steers generation, flags win, and it goes where the model goes."""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shared_files import SHARED
from tiny_chat import KINDS, tokenizer_of

from glm import GLMForCausalLM
from glm.api.pipelines import TextGenerationPipeline
from glm.api.predictor import Predictor
from glm.cli.prompts import add_decode_arguments, add_prompt_arguments, generation_config
from glm.encoding.processor import open_processor, processor_of
from glm.errors import GLMError
from glm.export.paddle_graphs import export_directory
from glm.generation.config_json import NAME, GenerationFile
from glm.generation.options import NARROWEST, GenerationConfig
from glm.generation.search import Prompt, StopTokens
from glm.training.arguments import DecodeArguments

REAL = SHARED / "real" / "configs" / "glm-4-9b-chat.generation_config.json"
OPTIONS = {
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 20,
    "top_p": 0.9,
    "num_beams": 2,
    "length_penalty": 1.5,
    "no_repeat_ngram_size": 3,
    "min_new_tokens": 2,
    "max_new_tokens": 30,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "suppress_tokens": [9, 7],
    "begin_suppress_tokens": [3],
    "bad_words_ids": [[11], [754]],
    "eos_token_id": 754,
}


def written(directory: Path, content) -> Path:
    directory.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / NAME).write_text(text, encoding="utf-8")
    return directory


@pytest.fixture
def with_file(chat_models, tmp_path):
    """A copy of a tiny model with a generation_config.json."""

    def made(kind="glm4", **content):
        folder = tmp_path / kind
        shutil.copytree(chat_models[kind], folder, dirs_exist_ok=True)
        return written(folder, content)

    return made


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_prompt_arguments(parser)
    add_decode_arguments(parser)
    return parser.parse_args(words)


def answer(directory, text="你好", **options) -> list[int]:
    """New tokens of a prompt, as predict_generation.py generates them."""
    predictor = Predictor.load(str(directory), device="cpu")
    return predictor.generate(
        [predictor.processor.text_prompt(text)], predictor.processor.generation_config(**options)
    )[0]


# What it says


def test_each_option_is_read(tmp_path):
    processor = processor_of(tokenizer_of("glm4"), GenerationFile.read(written(tmp_path, OPTIONS)))
    assert processor.generation_config() == GenerationConfig(
        max_length=30,
        min_length=2,
        num_beams=2,
        length_penalty=1.5,
        gnmt_length=False,
        no_repeat_ngram_size=3,
        do_sample=True,
        temperature=0.8,
        top_k=20,
        top_p=0.9,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        suppress_tokens=(7, 9, 11),
        begin_suppress_tokens=(3,),
    )


def test_without_a_file_the_kind_of_model_decides(tokenizer):
    assert processor_of(tokenizer_of("glm4")).generation_config() == GenerationConfig(
        max_length=1024, gnmt_length=False
    )
    assert processor_of(tokenizer).generation_config() == GenerationConfig(max_length=20, length_penalty=0.7)


def test_flags_win(tmp_path):
    directory = written(tmp_path, OPTIONS)
    processor = processor_of(tokenizer_of("glm4"), GenerationFile.read(directory), (None, 7))
    given = "--num_beams 1 --length_penalty 0.5 --no_repeat_ngram_size 0 --no-do_sample --temperature 2 --top_k 0"
    given += " --min_p 0 --repetition_penalty 1 --presence_penalty 0 --frequency_penalty 0"
    found = generation_config(flags(*given.split(), "--top_p", "0", "--seed", "4", "--tgt_length", "7"), processor)
    expected = GenerationConfig(max_length=7, min_length=2, length_penalty=0.5, temperature=2.0, seed=4)
    expected = replace(expected, suppress_tokens=(7, 9, 11), begin_suppress_tokens=(3,))
    assert found == replace(expected, gnmt_length=False)
    assert generation_config(flags("--min_tgt_length", "0"), processor).min_length == 0
    assert generation_config(flags(), processor).num_beams == 2


def test_its_shortest_text_gives_way_to_the_longest_one_asked_for(tmp_path):
    processor = processor_of(tokenizer_of("glm4"), GenerationFile.read(written(tmp_path, OPTIONS)), (None, 1))
    assert generation_config(flags("--tgt_length", "1"), processor).min_length == 1


def test_the_published_file_reads(tmp_path):
    if not REAL.is_file():
        pytest.skip(f"the published file is not at {REAL}")
    shutil.copy(REAL, tmp_path / NAME)
    file = GenerationFile.read(tmp_path)
    assert file.eos_token_ids == [151329, 151336, 151338]
    assert file.options == {"do_sample": True, "temperature": 0.8, "top_p": 0.8}
    assert file.max_new_tokens is None  # its max_length of 128000 counts the prompt
    with pytest.raises(
        GLMError, match="eos_token_id 151329 is not among the model's 768 tokens: take it from the model's"
    ):
        processor_of(tokenizer_of("glm4"), file).check_fits(768, 256)


# What it does


@pytest.mark.parametrize("kind", KINDS)
def test_all_its_end_tokens_end_a_text(with_file, kind):
    """Tokens that the model writes anyway, each made an end token: the text stops at the first of them."""
    free = answer(with_file(kind, max_new_tokens=12))
    ends = [free[8], free[5]]
    stopped = answer(with_file(kind, max_new_tokens=12, eos_token_id=ends))
    first = next(i for i, token in enumerate(free) if token in ends)
    assert stopped == free[: first + 1]
    assert 0 < len(stopped) < len(free)
    assert answer(with_file(kind, max_new_tokens=12, eos_token_id=free[5]))[-1] == free[5]
    processor = open_processor(with_file(kind, eos_token_id=ends))
    assert {*ends, *tokenizer_of(kind).stop_token_ids} == set(StopTokens.of(processor).eos_token_ids)


def test_sampling_as_it_says(with_file):
    greedy = answer(with_file(max_new_tokens=12))
    content = {"max_new_tokens": 12, "do_sample": True, "temperature": 3.0}
    drawn = answer(with_file(**content), seed=1)
    assert greedy != drawn != answer(with_file(**content), seed=2)
    assert answer(with_file(**content, top_k=1), seed=1) == greedy
    assert answer(with_file(**content, top_p=1e-6), seed=1) == greedy
    assert answer(with_file(**content), do_sample=False) == greedy


def test_model_chat_obeys_it(with_file):
    """With no more than the tokenizer: the model knows its directory's file."""
    directory = with_file(max_new_tokens=5)
    model, processor = GLMForCausalLM.from_pretrained(directory), open_processor(directory)
    model.eval()
    prompt = Prompt.of(processor.prompt_batch([processor.text_prompt("你好")]))
    tokens, _ = model.generate(prompt, GenerationConfig(max_length=5), StopTokens.of(processor))
    assert model.chat(processor.tokenizer, "你好")[0] == processor.answer(tokens[0].tolist())
    assert len(model.chat(processor.tokenizer, "你好", max_new_tokens=12)[0]) > len(
        processor.answer(tokens[0].tolist())
    )


def test_a_longest_answer_that_does_not_fit_the_model(with_file):
    processor = Predictor.load(str(with_file(max_new_tokens=4000)), device="cpu").processor
    assert (processor.src_length, processor.tgt_length) == (257, 256)


# Where it goes


@pytest.mark.long
def test_it_is_saved_with_the_model_and_the_graph(with_file, tmp_path):
    content = {"eos_token_id": [7, 9], "max_new_tokens": 5, "transformers_version": "4.40.2", "max_length": 128000}
    predictor = Predictor.load(str(with_file(**content)), device="cpu")
    predictor.save(tmp_path / "saved")
    export_directory(predictor.model, predictor.processor, tmp_path / "graph" / "glm")
    for name in ("saved", "graph"):
        assert json.loads((tmp_path / name / NAME).read_text(encoding="utf-8")) == content
    open_processor(tmp_path / "saved").save_pretrained(tmp_path / "again")
    assert GenerationFile.read(tmp_path / "again").eos_token_ids == [7, 9]


def test_none_is_written_where_there_was_none(chat_models, tmp_path):
    open_processor(chat_models["glm4"]).save_pretrained(tmp_path)
    assert not (tmp_path / NAME).exists()


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"eos_token_id": "</s>"}, "damaged: eos_token_id is '</s>', not a token id or a list of them"),
        ({"eos_token_id": [2, True]}, r"damaged: eos_token_id is \[2, True\], not a token id"),
        ({"max_new_tokens": 0}, "sets max_new_tokens to 0, and it must be a whole number above 0"),
        ({"max_new_tokens": "9"}, "sets max_new_tokens to '9', and it must be a whole number above 0"),
        ("[1]", "holds a JSON list, not an object: copy the file again"),
        ('{"top_k"', "is not valid JSON .*: copy the file again"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, content, message):
    with pytest.raises(GLMError, match=message) as error:
        GenerationFile.read(written(tmp_path, content))
    assert str(tmp_path / NAME) in str(error.value)
    assert "\n" not in str(error.value)


SAMPLES = {"do_sample": True}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"min_length": 5}, "sets min_length to 5, which is not supported: remove it"),
        ({"bad_words_ids": [[3], [4, 5]]}, r"sets bad_words_ids to \[\[3\], \[4, 5\]\], which is not supported"),
        ({"guidance_scale": 1.5}, "sets guidance_scale to 1.5, which is not supported"),
        (SAMPLES | {"typical_p": 0.9}, "sets typical_p to 0.9, which is not supported"),
        ({"num_beams": 3, "early_stopping": True}, "sets early_stopping to True, which is not supported"),
        (SAMPLES | {"temperature": "hot"}, "temperature is 'hot', which is no number; fix it, or remove the entry"),
        (SAMPLES | {"temperature": "1"}, "temperature is '1', which is no number; fix it"),
        (SAMPLES | {"top_k": 2.5}, "top_k is 2.5, which is no whole number"),
        (SAMPLES | {"top_p": 1.5}, "top_p is 1.5, and must be between 0 and 1"),
        ({"do_sample": 1}, "do_sample is 1, which is no boolean"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, and must be a number above 0"),
        ({"presence_penalty": 3}, "presence_penalty is 3.0, and must be between -2 and 2"),
        ({"suppress_tokens": 7}, "suppress_tokens is 7, which is no list of token ids"),
        ({"num_beams": True}, "num_beams is True, which is no whole number"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, r"min_new_tokens \(4\) is above max_new_tokens \(3\): fix it"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_where_texts_are_written(tmp_path, content, message):
    """And stops no training, which reads the file for its end tokens."""
    processor = processor_of(tokenizer_of("glm4"), GenerationFile.read(written(tmp_path, content)))
    with pytest.raises(GLMError, match=message) as error:
        processor.generation_config()
    assert str(tmp_path / NAME) in str(error.value)
    assert "\n" not in str(error.value)
    assert DecodeArguments().generation_config(processor).num_beams == 1


@pytest.mark.parametrize(
    "content",
    [
        {"repetition_penalty": 1.0, "early_stopping": None, "typical_p": 1, "temperature": None, "top_p": 1},
        {"do_sample": False, "temperature": 0.0, "top_k": -1, "top_p": 0},
        {"do_sample": False, "temperature": -1, "top_k": "x", "top_p": 1.5, "min_p": 7},
        {"do_sample": False, "typical_p": 0.3, "epsilon_cutoff": 0.1, "early_stopping": True, "top_h": 0.4},
        {"do_sample": True, "temperature": 0},
        {"temperature": 0.0},
        {"top_k": None, "top_p": None, "min_p": None},
        {"num_return_sequences": 4, "renormalize_logits": True, "use_cache": False, "cache_implementation": "static"},
        {"bad_words_ids": None, "suppress_tokens": [], "begin_suppress_tokens": None, "stop_strings": None},
        {"encoder_repetition_penalty": 1, "guidance_scale": 1.0, "num_beam_groups": 1, "diversity_penalty": 0},
        {"num_beams": 1.0, "no_repeat_ngram_size": 0.0, "length_penalty": 1, "a_field_of_tomorrow": 3},
    ],
    ids=str,
)
def test_what_does_nothing_is_greedy_search(tmp_path, content):
    processor = processor_of(tokenizer_of("glm4"), GenerationFile.read(written(tmp_path, content)))
    found = vars(processor.generation_config()) | {"top_p": 0.0}
    assert GenerationConfig(**found) == GenerationConfig(max_length=1024, gnmt_length=False)


def test_numbers_in_the_other_form(tmp_path):
    content = {"do_sample": True, "temperature": 1, "top_k": 30.0, "max_new_tokens": 20.0, "repetition_penalty": 2}
    processor = processor_of(tokenizer_of("glm4"), GenerationFile.read(written(tmp_path, content)))
    found = processor.generation_config()
    assert (found.top_k, found.max_length, found.repetition_penalty) == (30, 20, 2.0)
    assert type(found.top_k) is type(found.max_length) is int


def test_leftovers_of_a_file_that_does_not_sample(tmp_path):
    """Valid ones serve who asks for sampling; temperature 0 only says once more that the file does not."""
    file = GenerationFile.read(written(tmp_path, {"do_sample": False, "temperature": 0.0, "top_p": 0.9, "top_k": -7}))
    found = processor_of(tokenizer_of("glm4"), file).generation_config(do_sample=True)
    assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (True, 1.0, 0.9, 50)


def test_top_p_0_is_the_likeliest_token(with_file):
    """As transformers' TopPLogitsWarper and PaddleNLP's TopPProcess have it; the flag's 0 is off."""
    read = {}
    for samples, top_p in ((True, 0), (True, 0.0), (False, 0)):
        file = GenerationFile.read(with_file(do_sample=samples, top_p=top_p))
        read[samples] = processor_of(tokenizer_of("glm4"), file).generation_config(do_sample=True).top_p
    assert read == {True: NARROWEST, False: 0}  # a leftover of a file that does not sample
    drawn = with_file(do_sample=True, top_p=0, max_new_tokens=8)
    greedy = answer(drawn, do_sample=False)
    assert len(set(greedy)) > 1
    assert all(answer(drawn, seed=seed) == greedy for seed in range(3))
    assert answer(drawn, seed=1, top_p=1.0) != greedy


@pytest.mark.parametrize("kind", [*KINDS, "glm"])
def test_top_k_where_nobody_says_one(tmp_path, tokenizer, kind):
    """transformers' and PaddleNLP's default is 50; a value that is written down is obeyed, and null is off."""

    def top_k(content, **options) -> int:
        file = GenerationFile.read(written(tmp_path, content))
        return processor_of(tokenizer if kind == "glm" else tokenizer_of(kind), file).generation_config(**options).top_k

    assert top_k({"do_sample": True, "temperature": 0.8, "top_p": 0.8}) == 50
    assert top_k({}, do_sample=True) == 50
    assert top_k({}) == 0
    for off in (0, -1, None):
        assert top_k({"do_sample": True, "top_k": off}) == 0
        assert top_k({"do_sample": True}, top_k=off) == 0
    assert top_k({"do_sample": True, "top_k": 20}) == 20
    assert top_k({"do_sample": True, "top_k": None}, top_k=7) == 7


def test_what_is_not_obeyed_is_said_once(tmp_path, caplog):
    content = {"early_stopping": True, "top_k": "x", "do_sample": True, "max_length": 9}
    content |= {"a_field_of_tomorrow": 3, "num_return_sequences": 2}
    place = tmp_path / NAME
    for _ in range(2):
        file = GenerationFile.read(written(tmp_path, content))
        file.warn_of_unsupported()
    for _ in range(2):
        file = GenerationFile.read(written(tmp_path, content | {"top_k": 3}))
        processor_of(tokenizer_of("glm4"), file).generation_config()
    assert [record.getMessage() for record in caplog.records] == [
        f"{place}: not supported, and refused where it would change a text: early_stopping",
        f"{place}: top_k is 'x', which is no whole number; fix it, or remove the entry",
        f"{place}: num_return_sequences: one text is written for a prompt",
        f"{place}: not known here, and not obeyed: a_field_of_tomorrow",
    ]


def test_other_options_may_keep_an_unsupported_one_from_acting(tmp_path):
    file = GenerationFile.read(written(tmp_path, {"do_sample": True, "typical_p": 0.5}))
    processor = processor_of(tokenizer_of("glm4"), file)
    assert not processor.generation_config(do_sample=False).do_sample
    with pytest.raises(GLMError, match=r"sets typical_p to 0\.5"):
        processor.generation_config(num_beams=2)


def test_penalties_and_forbidden_tokens_of_a_file_act(with_file):
    free = answer(with_file(max_new_tokens=12))
    assert free[0] not in answer(with_file(max_new_tokens=12, suppress_tokens=[free[0]]))
    assert answer(with_file(max_new_tokens=12, begin_suppress_tokens=[free[0]]))[0] != free[0]
    assert free[0] not in answer(with_file(max_new_tokens=12, bad_words_ids=[[free[0]], [free[1]]]))
    for name, value in (("repetition_penalty", 0.2), ("presence_penalty", -2.0), ("frequency_penalty", -2)):
        assert answer(with_file(max_new_tokens=12, **{name: value})) != free, name


def test_its_stop_strings_end_a_text(with_file):
    free = Predictor.load(str(with_file(max_new_tokens=12)), device="cpu")
    tokens = free.generate([free.processor.text_prompt("你好")], free.processor.generation_config())[0]
    text = free.answer(tokens)
    stop = text[len(text) // 2]
    stopped = Predictor.load(str(with_file(max_new_tokens=12, stop_strings=[stop])), device="cpu")
    assert stopped.answer(tokens) == text[: text.index(stop)].rstrip()
    assert "".join(stopped.stream("你好", stopped.processor.generation_config())) == stopped.answer(tokens)
    assert TextGenerationPipeline(stopped)("你好") == [{"generated_text": stopped.answer(tokens)}]
    with pytest.raises(GLMError, match=r"stop_strings is \[3\], which is no text or list of texts"):
        Predictor.load(str(with_file(stop_strings=[3])), device="cpu")

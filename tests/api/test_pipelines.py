"""glm.pipeline: what it takes, what its options mean, and that it generates what prediction generates."""

import shutil

import numpy as np
import pytest
from tiny_chat import KINDS

import glm
from glm.api.pipelines import TextGenerationPipeline
from glm.cli.generate import generate_completions
from glm.errors import GLMError, UsageError

TEXTS = ["你好", "云溪桥建于哪一年？建于1920年。", "a"]


@pytest.fixture(scope="module", params=[*KINDS, "glm"])
def generate(request, chat_models) -> TextGenerationPipeline:
    model = "glm-tiny-chinese" if request.param == "glm" else chat_models[request.param]
    return glm.pipeline("text-generation", model=model, device="cpu", max_new_tokens=10)


@pytest.fixture(scope="module")
def chat(chat_models) -> TextGenerationPipeline:
    return glm.pipeline(model=chat_models["glm4"], device="cpu", max_new_tokens=10)


def texts(results) -> list[str]:
    assert all(result.keys() == {"generated_text"} for result in results)
    return [result["generated_text"] for result in results]


def predicted(pipeline, **options) -> list[str]:
    """What predict_generation.py makes of TEXTS."""
    predictor = pipeline.predictor
    config = predictor.processor.generation_config(**options)
    return generate_completions(TEXTS, predictor, config, 2)[0]


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, {"max_length": 10}),
        ({"num_beams": 3}, {"max_length": 10, "num_beams": 3}),
        ({"max_new_tokens": 4}, {"max_length": 4}),
        (
            {"min_new_tokens": 9, "no_repeat_ngram_size": 1},
            {"max_length": 10, "min_length": 9, "no_repeat_ngram_size": 1},
        ),
    ],
    ids=["greedy", "beams", "short", "rules"],
)
def test_it_generates_what_prediction_generates(generate, options, same):
    assert texts(generate(TEXTS, **options)) == predicted(generate, **same)
    assert texts(generate(TEXTS[0], **options)) == predicted(generate, **same)[:1]


def test_options_of_sampling(generate):
    drawn = {"do_sample": True, "temperature": 3.0, "top_k": 50, "top_p": 0.95}
    one, again, other = (texts(generate(TEXTS[:2], seed=seed, **drawn)) for seed in (1, 1, 2))
    assert one == again != other
    assert one == predicted(generate, max_length=10, seed=1, **drawn)[:2]


def test_batches_do_not_change_texts(generate):
    every = texts(generate(TEXTS))
    assert len(set(every)) == len(every)
    for size in (1, 2):
        assert texts(TextGenerationPipeline(generate.predictor, size, max_new_tokens=10)(TEXTS)) == every
    assert generate([]) == []


def test_max_length_counts_the_prompt(generate):
    processor = generate.predictor.processor
    prompt = len(processor.text_prompt(TEXTS[0]))
    bare = TextGenerationPipeline(generate.predictor)
    assert texts(bare(TEXTS[0], max_length=prompt + 4)) == texts(generate(TEXTS[0], max_new_tokens=4))
    assert texts(generate(TEXTS[0], max_length=prompt + 4)) == texts(generate(TEXTS[0]))  # max_new_tokens wins
    with pytest.raises(UsageError, match=f"max_length {prompt} has no room for an answer to a prompt of {prompt} tok"):
        bare(TEXTS[0], max_length=prompt)


def test_an_answer_that_the_model_cannot_count(generate):
    processor = generate.predictor.processor
    assert processor.max_position in (512, 1024)
    prompt = len(processor.text_prompt(TEXTS[0]))
    with pytest.raises(
        UsageError, match=rf"a prompt of {prompt} tokens and 3000 new ones need position 30[0-2]\d, and the mo"
    ):
        generate(TEXTS[0], max_new_tokens=3000)


def test_conversations(chat):
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": "桥"},
    ]
    one = chat(messages)
    assert len(one) == 1
    assert one != chat(messages[3:]) == chat("桥")
    assert chat([messages, messages[3:]]) == [*one, *chat("桥")]
    answer, _ = chat.predictor.model.chat(chat.predictor.processor, "桥", messages[:3], max_new_tokens=10)
    assert texts(one) == [answer]


def test_a_tokenizer_of_elsewhere(chat, chat_models, tmp_path):
    """By its directory, its name or itself; what is wrong with it is said before the weights are read."""
    source, wanted = chat_models["glm4"], chat("你好")
    bare, text = tmp_path / "weights", tmp_path / "text"
    shutil.copytree(source, bare, ignore=shutil.ignore_patterns("*token*", "*jinja*"))
    tokenizer = glm.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(text)
    options = {"device": "cpu", "max_new_tokens": 10}
    for given in (text, str(text), tokenizer):
        assert glm.pipeline(model=bare, tokenizer=given, trust_remote_code=True, **options)("你好") == wanted
    loaded = glm.AutoModel.from_pretrained(bare)
    assert glm.pipeline(model=loaded, tokenizer=text, max_new_tokens=10)("你好") == wanted
    assert glm.TextGenerationPipeline(loaded, str(text), max_new_tokens=10)("你好")[0].keys() == {
        "text_generation_text"
    }
    (bare / "model.safetensors").unlink()
    with pytest.raises(GLMError, match="nowhere is not a directory, and no preset whose vocabulary is"):
        glm.pipeline(model=bare, tokenizer="nowhere")
    with pytest.raises(UsageError, match=r"tokenizer is a int: give one of glm\.AutoTokenizer, or its dire"):
        glm.pipeline(model=bare, tokenizer=3)
    with pytest.raises(UsageError, match="device is 0, and must be a name such as cpu or gpu:0"):
        glm.pipeline(model=bare, tokenizer=text, device=0)
    with pytest.raises(UsageError, match="the tokenizer is that of a chatglm model, with 2 positions per token"):
        glm.TextGenerationPipeline(loaded, glm.AutoTokenizer.from_pretrained(chat_models["chatglm"]))
    with pytest.raises(UsageError, match="unknown option 'beams'"):
        glm.pipeline(model=bare, tokenizer=text, beams=2)


def test_plain_texts_have_no_turns(chat, chat_models):
    plain = glm.pipeline(model=chat_models["glm4"], device="cpu", plain=True, max_new_tokens=10)
    assert plain("你好") != chat("你好")
    assert plain.predictor.processor.text_prompt("你好")[2:] == [296, 351]


def test_no_conversation_with_glm_2021():
    with pytest.raises(UsageError, match=r"a GLM \(2021\) model holds no conversations: pass a text"):
        glm.pipeline(model="glm-tiny-chinese")([{"role": "user", "content": "你好"}])


@pytest.mark.parametrize(
    "prompts", [3, None, b"a", [3], ["a", None], {"role": "user"}, ["a", {"role": "user"}], [["a"]]]
)
def test_what_is_no_prompt(chat, prompts):
    with pytest.raises(UsageError, match=r"a prompt is .*: give a text, a list of messages, or a list of such prompts"):
        chat(prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": "3"}, "max_new_tokens is '3', and must be a whole number"),
        ({"max_length": 2.5}, "max_length is 2.5, and must be a whole number"),
        ({"temperature": [1.0]}, r"temperature is \[1.0\], and must be a number"),
        ({"do_sample": "no"}, "do_sample is 'no', and must be True or False"),
    ],
)
def test_values_of_another_type(chat, options, message):
    with pytest.raises(UsageError, match=message):
        chat("a", **options)
    with pytest.raises(UsageError, match=message):
        chat.predictor.model.chat(chat.predictor.processor, "a", **options)


def test_numpys_numbers_are_numbers(chat):
    options = {"max_new_tokens": np.int64(4), "temperature": np.float32(1.0), "do_sample": np.bool_(False)}
    assert chat("a", **options) == chat("a", max_new_tokens=4)


def test_what_is_wrong_is_said(chat, chat_models):
    with pytest.raises(
        UsageError, match="unknown option 'num_beam'; known: begin_suppress_tokens, do_sample, frequency_penalty, l"
    ):
        chat("你好", num_beam=3)
    with pytest.raises(UsageError, match="unknown option 'beams'"):
        glm.pipeline(model=chat_models["glm4"], beams=2)
    with pytest.raises(UsageError, match="batch_size is 0, and must be at least 1"):
        glm.pipeline(model=chat_models["glm4"], batch_size=0)
    with pytest.raises(UsageError, match="batch_size is '3', and must be at least 1"):
        glm.pipeline(model=chat_models["glm4"], batch_size="3")
    with pytest.raises(UsageError, match="top_p is '1', and must be a number"):
        glm.pipeline(model=chat_models["glm4"], top_p="1")
    with pytest.raises(UsageError, match="num_beams is 0, and must be at least 1"):
        chat("你好", num_beams=0)
    with pytest.raises(UsageError, match="unknown task 'translation'; the one there is: text-generation"):
        glm.pipeline("translation", model="x")
    with pytest.raises(UsageError, match="pipeline needs model="):
        glm.pipeline("text_generation")
    with pytest.raises(
        UsageError, match="model is a GLMForCausalLM: give a directory or a name; a loaded model has mo"
    ):
        glm.pipeline(model=chat.predictor.model)
    model, tokenizer = chat.predictor.model, chat.predictor.processor.tokenizer
    with pytest.raises(UsageError, match="lora_path goes with the name of a model, and this model is loaded already"):
        glm.pipeline(model=model, tokenizer=tokenizer, lora_path="adapter")
    with pytest.raises(UsageError, match=r"model is a int: glm\.AutoModel\.from_pretrained loads one"):
        glm.pipeline(model=3, tokenizer=tokenizer)
    with pytest.raises(UsageError, match=r"model is a str: glm\.AutoModel\.from_pretrained loads one"):
        glm.TextGenerationPipeline(str(chat_models["glm4"]), tokenizer)
    with pytest.raises(GLMError, match=r"'n{300}' is neither a directory nor a preset"):
        glm.pipeline(model="n" * 300)
    with pytest.raises(GLMError, match="'nowhere' is neither a directory nor a preset"):
        glm.pipeline(model="nowhere")

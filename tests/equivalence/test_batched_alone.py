"""A batch of unequal rows gives what each row gives alone, in every kind of model: texts and losses."""

import numpy as np
import pytest
from tiny_chat import KINDS, chat_model, processor_of_tiny
from tiny_glm import tensors, tiny_model

from glm.encoding.examples import Example
from glm.encoding.processor import GLMProcessor
from glm.generation.search import Prompt, StopTokens


def conversation(*texts: str) -> Example:
    """Turns of user and assistant, the user's first."""
    return Example("", "", tuple({"role": ("user", "assistant")[n % 2], "content": t} for n, t in enumerate(texts)))


@pytest.fixture(scope="module")
def models():
    return {kind: chat_model(kind) for kind in KINDS} | {"glm": tiny_model(seed=3)}


QUESTIONS = ["你好", "云溪桥建于哪一年？建于1920年。", "a", "答案：9层"]


def generated(model, processor, prompts, **options) -> list[list[int]]:
    """New tokens of each prompt, generated together; padding behind the end is cut off."""
    batch = Prompt.of(processor.prompt_batch(prompts))
    stop = StopTokens.of(processor)
    tokens = model.generate(batch, processor.generation_config(**options), stop)[0].tolist()
    return [row[: next((i + 1 for i, t in enumerate(row) if t in stop.eos_token_ids), len(row))] for row in tokens]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", [*KINDS, "glm"])
def test_a_batch_generates_what_each_prompt_generates_alone(models, kind, beams, tokenizer):
    processor = GLMProcessor(tokenizer, 48, 12) if kind == "glm" else processor_of_tiny(kind)
    prompts = [processor.text_prompt(text) for text in QUESTIONS]
    assert len(set(map(len, prompts))) > 2
    alone = [generated(models[kind], processor, [ids], num_beams=beams)[0] for ids in prompts]
    assert generated(models[kind], processor, prompts, num_beams=beams) == alone
    assert len(set(map(tuple, alone))) == len(alone)


@pytest.mark.parametrize("kind", [*KINDS, "glm"])
def test_the_loss_of_a_batch_is_the_mean_over_its_trained_tokens(models, kind, tokenizer):
    if kind == "glm":
        processor = GLMProcessor(tokenizer, 48, 12)
        examples = [Example.of_pair(text, "好" * n) for n, text in enumerate(QUESTIONS, 1)]
    else:
        processor = processor_of_tiny(kind)
        examples = [conversation(text, "好" * n, "桥", "a") for n, text in enumerate(QUESTIONS, 1)]
    rows = [row for example in examples for row in processor.rows(example)]
    model = models[kind]
    alone = [float(model(**tensors(processor.training_batch([row])))) for row in rows]
    together = float(model(**tensors(processor.training_batch(rows))))
    counts = [row.trained_tokens for row in rows]
    assert len(set(counts)) > 1
    assert together == pytest.approx(np.average(alone, weights=counts), rel=1e-5)
    assert np.std(alone) > 0.01

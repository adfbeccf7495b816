"""A row that reads a prompt once gives, per answer, the log-probabilities and gradients that two separate rows give.

Where the chosen answer is visible to the rejected one, they differ by more than 1e-3.
"""

import numpy as np
import paddle
import pytest
from tiny_chat import KINDS, chat_model, processor_of_tiny
from tiny_glm import tensors, tiny_model

from glm.config import chunks
from glm.encoding.examples import Example, TrainingExample
from glm.encoding.preference import PreferenceExample, PreferenceRow, encode_preference, preference_batch
from glm.encoding.processor import GLMProcessor, Processor
from glm.model import network
from glm.model.lora import add_lora

EVERY = ["glm", *KINDS]
ANSWERS = [("建于1920年。", "不"), ("a", "云溪桥建于哪一年"), ("9层", "9米")]
BEFORE = [("你好", "好"), ("云溪桥", "建于1920年。")]


def processor_of(kind: str, tokenizer) -> Processor:
    return GLMProcessor(tokenizer, 60, 16) if kind == "glm" else processor_of_tiny(kind, 120, 24)


def model_of(kind: str):
    return tiny_model(seed=3) if kind == "glm" else chat_model(kind)


def rows_of(processor: Processor) -> list[PreferenceRow]:
    """Pairs with prompts and answers of several lengths, and one of ids alone, in which token 0 is trained."""
    rows = []
    for turns, answers in enumerate(ANSWERS):
        before = [
            {"role": role, "content": text, **({"weight": 0} if role == "assistant" else {})}
            for pair in BEFORE[:turns]
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        asked = {"role": "user", "content": "桥" * (turns + 1)}
        sides = (
            Example(asked["content"], text, (*before, asked, {"role": "assistant", "content": text}))
            for text in answers
        )
        rows.append(encode_preference(processor, PreferenceExample(*sides)))
    first = rows[0]
    prompt, end = first.prompt_length, first.prompt_length + first.chosen_length
    ids = [*first.ids[:prompt], 0, *first.ids[prompt + 1 : end - 1], 0, *first.ids[end:-1], 0]
    return [*rows, PreferenceRow(ids, first.trained, prompt, first.chosen_length, first.prefix_length)]


def apart(row: PreferenceRow) -> list[TrainingExample]:
    """Each answer behind a prompt of its own."""
    prompt, end = row.prompt_length, row.prompt_length + row.chosen_length

    def kept(flat: list) -> tuple[list, list]:
        return flat[:end], flat[:prompt] + flat[end:]

    sides = zip(kept(row.ids), kept(row.trained), strict=True)
    return [TrainingExample(ids, trained, row.prefix_length) for ids, trained in sides]


def losses(model, batch: dict, answers: int) -> tuple[list[paddle.Tensor], list[np.ndarray]]:
    """Minus the log-probabilities of the tokens of each answer."""
    answer_of = batch.pop("answer_of")
    losses_M = model(**tensors(batch), reduction="none")
    assert losses_M.shape == list(answer_of.shape)
    return [losses_M[paddle.to_tensor(np.flatnonzero(answer_of == number))] for number in range(answers)]


def weighed(answers: list[paddle.Tensor]) -> paddle.Tensor:
    """A sum in which every token of every answer counts differently, the rejected ones against the chosen ones."""
    return sum(
        ((-1) ** number * (loss_m * paddle.arange(1, len(loss_m) + 1, dtype="float32")).sum() / (number + 1))
        for number, loss_m in enumerate(answers)
    )


def gradients(model) -> dict[str, np.ndarray]:
    named = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient and p.grad is not None]
    return {name: p.grad.numpy().copy() for name, p in named}


def assert_the_same(model, processor: Processor, rows: list[PreferenceRow]) -> None:
    model.clear_gradients()
    alone = [
        model(**tensors(processor.training_batch([each])), reduction="none") for row in rows for each in apart(row)
    ]
    weighed(alone).backward()
    wanted = gradients(model)
    assert len(wanted) == sum(not p.stop_gradient for p in model.parameters())
    model.clear_gradients()
    together = losses(model, preference_batch(processor, rows), 2 * len(rows))
    weighed(together).backward()
    found = gradients(model)
    for ours, theirs in zip(together, alone, strict=True):
        assert np.abs(ours.numpy() - theirs.numpy()).max() < 1e-5 * max(1.0, np.abs(theirs.numpy()).max())
    least = 1e-2 * max(np.abs(gradient).max() for gradient in wanted.values())
    assert found.keys() == wanted.keys()
    for name in wanted:
        distance = np.abs(found[name] - wanted[name]).max() / max(least, np.abs(wanted[name]).max())
        assert distance < 1e-4, name  # differences of float32 sums in another order


@pytest.fixture(params=["whole", "chunked"])
def head(request, monkeypatch) -> None:
    """The logits of all tokens at once, or of one."""
    if request.param == "chunked":
        monkeypatch.setattr(chunks, "LOGITS", 384)
        monkeypatch.setattr(network, "smoothed_cross_entropy", None)  # a call would fail


@pytest.mark.usefixtures("attention", "head")
@pytest.mark.parametrize("kind", EVERY)
def test_one_row_is_two_rows(kind, tokenizer):
    processor, model = processor_of(kind, tokenizer), model_of(kind)
    rows = rows_of(processor)
    assert 0 in rows[-1].ids[rows[-1].prompt_length :]
    assert_the_same(model, processor, rows)


@pytest.mark.parametrize("kind", EVERY)
def test_with_an_adapter_and_recompute(kind, tokenizer):
    processor = processor_of(kind, tokenizer)
    paddle.seed(0)
    model = add_lora(model_of(kind), 4, None, "all", 0.0)
    draw = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.set_value(0.1 * draw.standard_normal(parameter.shape).astype("float32"))
    model.train()
    model.model.model.enable_recompute = True
    assert_the_same(model, processor, rows_of(processor))


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("kind", EVERY)
def test_answers_do_not_see_each_other(kind, tokenizer):
    """To the last bit; the check would notice: with the packs' causal view, the rejected answer changes."""
    processor, model = processor_of(kind, tokenizer), model_of(kind)
    row = rows_of(processor)[1]
    prompt, end = row.prompt_length, row.prompt_length + row.chosen_length
    places = {"chosen": range(prompt, end), "rejected": range(end, len(row.ids))}
    batch = preference_batch(processor, [row])
    before = losses(model, dict(batch), 2)
    for side, (changed, other) in enumerate(zip(places.values(), (1, 0), strict=True)):
        ids = [(token + 7) % 300 if place in changed else token for place, token in enumerate(row.ids)]
        altered = PreferenceRow(ids, row.trained, prompt, row.chosen_length, row.prefix_length)
        after = losses(model, preference_batch(processor, [altered]), 2)
        assert np.array_equal(after[other].numpy(), before[other].numpy())
        assert not np.isclose(after[side].numpy(), before[side].numpy()).all()
    batch["visible_rows"][:, 1] = row.columns  # what a row of one text sees
    assert np.abs(losses(model, batch, 2)[1].numpy() - before[1].numpy()).max() > 1e-3

"""Rows in packs train what the same rows train by themselves, in every generation: losses, gradients, whole runs.

Without `visible_rows` the loss of a step differs by more than 1e-3.
"""

from pathlib import Path

import numpy as np
import paddle
import pytest
from family_models import MODELS, write_family_model
from tiny_chat import KINDS, chat_model, processor_of_tiny
from tiny_glm import relative_error, tensors, tiny_model
from training_runs import NO_DROPOUT, losses, sample_rows, train, write_model, write_rows

from glm.encoding.examples import Example, TrainingExample
from glm.encoding.processor import GLMProcessor, Processor
from glm.model.lora import add_lora

pytestmark = pytest.mark.long
EVERY = ["glm", *KINDS]
TEXTS = ["你好", "云溪桥建于哪一年？建于1920年。", "a", "答案：9层", "桥"]


def processor_of(kind: str, tokenizer, **options) -> Processor:
    return GLMProcessor(tokenizer, 48, 12, **options) if kind == "glm" else processor_of_tiny(kind)


def model_of(kind: str):
    return tiny_model(seed=3) if kind == "glm" else chat_model(kind)


def rows_of(processor: Processor) -> list[TrainingExample]:
    """Rows with other lengths, prefixes and numbers of trained tokens each; conversations of several turns too."""
    rows = []
    for number, text in enumerate(TEXTS, 1):
        said = (text, "好" * number, "桥", "a")
        turns = tuple({"role": ("user", "assistant")[i % 2], "content": each} for i, each in enumerate(said))
        rows += processor.rows(Example(text, said[1], turns))
    return rows


def step(model, batches, tokens: int, smoothing: float = 0.0) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of a step of several batches, as the trainer weighs them."""
    model.clear_gradients()
    total = 0.0
    for batch in batches:
        loss = model(**tensors(batch), label_smoothing=smoothing, reduction="none").sum() / tokens
        loss.backward()
        total += float(loss)
    named = [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]
    return total, {name: p.grad.numpy().copy() for name, p in named if p.grad is not None}


def distances(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> list[float]:
    """Of each gradient, as a share of its largest number; that of a key's bias in GLM is 0 but for rounding."""
    least = 1e-2 * max(np.abs(gradient).max() for gradient in wanted.values())
    return [np.abs(found[name] - wanted[name]).max() / max(least, np.abs(wanted[name]).max()) for name in wanted]


@pytest.fixture(scope="module")
def models() -> dict:
    return {kind: model_of(kind) for kind in EVERY}


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("kind", EVERY)
def test_a_step_of_packs_is_a_step_of_rows(kind, lora, tokenizer):
    """In loss and in every gradient; other packs and micro-batches of the same rows are the same step, too."""
    processor, model = processor_of(kind, tokenizer), model_of(kind)
    if lora:
        paddle.seed(0)
        model = add_lora(model, 4, None, "all", 0.0)
        draw = np.random.default_rng(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.set_value(0.1 * draw.standard_normal(parameter.shape).astype("float32"))
    model.eval()
    rows = rows_of(processor)
    tokens = sum(row.trained_tokens for row in rows)
    smoothing = 0.1 if kind == "glm" else 0.0
    wanted_loss, wanted = step(model, [processor.training_batch([row]) for row in rows], tokens, smoothing)
    assert len(wanted) == sum(not p.stop_gradient for p in model.parameters())
    one, two, last = rows[:3], rows[3:-1], rows[-1:]
    for packs in ([[rows]], [[two, one, last]], [[last, [*one, *two]]], [[one], [two, last]]):
        loss, gradients = step(model, map(processor.packed_batch, packs), tokens, smoothing)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert gradients.keys() == wanted.keys()
        assert max(distances(gradients, wanted)) < 2e-5  # sums of float32 in another order
    blind = processor.packed_batch([rows])
    del blind["visible_rows"]
    assert abs(step(model, [blind], tokens, smoothing)[0] / wanted_loss - 1) > 1e-3


@pytest.mark.parametrize("no_block_position", [False, True])
def test_logits_of_a_pack_are_those_of_its_rows(no_block_position, tokenizer, models):
    processor = processor_of("glm", tokenizer, no_block_position=no_block_position)
    rows = rows_of(processor)
    _assert_logits_agree(models["glm"], processor, rows)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_a_pack_of_conversations(kind, models):
    processor = processor_of_tiny(kind)
    _assert_logits_agree(models[kind], processor, rows_of(processor))


def _assert_logits_agree(model, processor: Processor, rows: list[TrainingExample]) -> None:
    together = logits(model, processor.packed_batch([rows]))[0]
    start = 0
    for row in rows:
        end = start + len(row.ids) - 1
        assert relative_error(together[start:end], logits(model, processor.training_batch([row]))[0]) < 1e-5
        start = end


def logits(model, batch: dict) -> np.ndarray:
    inputs = {name: array for name, array in batch.items() if name != "labels"}
    return model(**tensors(inputs)).numpy()


@pytest.mark.usefixtures("attention")
@pytest.mark.parametrize("kind", EVERY)
def test_nothing_leaks_from_one_row_to_another(kind, tokenizer, models):
    """To the last bit, in both directions; the row itself, and all rows without `visible_rows`, are others."""
    processor, model = processor_of(kind, tokenizer), models[kind]
    rows = rows_of(processor)[:3]
    ends = np.cumsum([len(row.ids) - 1 for row in rows])
    batch = processor.packed_batch([rows, rows[:2]])
    before = logits(model, batch)[0]
    for changed in (2, 1, 0):
        own = slice(ends[changed] - len(rows[changed].ids) + 1, ends[changed])
        other = {name: array.copy() for name, array in batch.items()}
        other["input_ids"][0, own] = (other["input_ids"][0, own] + 7) % 300
        after = logits(model, other)[0]
        outside = np.ones(len(after), dtype=bool)
        outside[own] = False
        assert np.array_equal(after[outside], before[outside])
        assert not np.isclose(after[own], before[own]).all(axis=1).any()
    blind = [{name: array for name, array in each.items() if name != "visible_rows"} for each in (batch, other)]
    before, after = (logits(model, each)[0, ends[0] : ends[2]] for each in blind)
    assert not np.isclose(after, before).all(axis=1).any()


# runs


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.json", sample_rows(12))


@pytest.fixture(scope="module")
def run_models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    found = {family: write_family_model(folder / family, family) for family in MODELS}
    return found | {"glm": write_model(folder / "glm", **NO_DROPOUT)}


def run(models: dict[str, Path], data: Path, output: Path, kind: str, **flags) -> np.ndarray:
    own = {} if kind == "glm" else {"from_scratch": False, "tokenizer_name_or_path": models[kind]}
    train(models[kind], data, output, **own | {"max_steps": 4, "save_strategy": "no"} | flags)
    return np.array(losses(output))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("kind", ["glm", *MODELS])
def test_a_run_of_packs_is_a_run_of_rows(kind, lora, run_models, data, tmp_path):
    """All rows in one pack, in several of a step with recompute, or in batches of all rows: the same losses."""
    flags = {"lora": lora, "label_smoothing": 0.1, "learning_rate": 1e-2 if lora else 1e-3}
    rows = run(run_models, data, tmp_path / "rows", kind, **flags, per_device_train_batch_size=12)
    packed = {"packing": True, "per_device_train_batch_size": 1}
    one = run(run_models, data, tmp_path / "one", kind, **flags | packed, max_length=2048)
    parts = {"max_length": 100, "gradient_accumulation_steps": 16, "recompute": True}
    some = run(run_models, data, tmp_path / "some", kind, **flags | packed | parts)
    assert np.abs(one / rows - 1).max() < 1e-5 and np.abs(some / rows - 1).max() < 1e-5
    assert abs(rows[-1] / rows[0] - 1) > 1e-3


def test_packs_in_other_micro_batches_are_the_same_run(run_models, data, tmp_path):
    """Four packs at once, two by two, and one after another, through four epochs."""
    flags = {"packing": True, "max_length": 120, "max_steps": -1, "num_train_epochs": 4}
    curves = []
    for size in (4, 2, 1):
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        curves.append(run(run_models, data, tmp_path / str(size), "glm", **flags | cut))
    assert [len(curve) for curve in curves] == [4, 4, 4]
    assert all(np.abs(curve / curves[0] - 1).max() < 1e-5 for curve in curves[1:])

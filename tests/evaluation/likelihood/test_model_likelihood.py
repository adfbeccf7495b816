"""Likelihoods of a model are those of its training loss, however rows are batched, shared and cached."""

import math
from dataclasses import replace

import numpy as np
import paddle
import pytest
from likelihood_cases import CAUSAL, LETTERS, NAMES, ROWS, SHOTS, assert_same

from glm.config import chunks
from glm.errors import GLMError, UsageError
from glm.evaluation.likelihood import ContextTooLong, Row, TokenRow
from glm.evaluation.likelihood.model import model_scorer
from glm.model import prefix_attention


@pytest.fixture(scope="module")
def wanted(cases):
    """By model, the likelihoods of every row by the training loss."""
    return {name: [case.wanted(row) for row in ROWS] for name, case in cases.items()}


def scored(case, rows=ROWS, **options):
    return list(model_scorer(case.model, case.processor, **options)(rows))


def assert_rows_same(found, wanted, tolerance=2e-4):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same(ours, theirs, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_the_training_loss(cases, wanted, name):
    assert_rows_same(scored(cases[name]), wanted[name])


@pytest.mark.parametrize("name", NAMES)
def test_what_greedy_search_writes_is_greedy(cases, name):
    """And nothing else: neither another beginning nor another end."""
    case = cases[name]
    for row in ROWS[:1] + ROWS[5:6]:
        context, _, prefix = case.ids(row, row.targets[0])
        written = greedy_ids(case, context, prefix, 4)
        targets = (written, written[:1], [written[0] + 1, *written[1:]], [*written[:-1], written[-1] + 1])
        (found,) = model_scorer(case.model, case.processor).score([TokenRow(context, targets, prefix)])
        assert [each.greedy for each in found] == [True, True, False, False]
        assert [each.tokens for each in found] == [4, 1, 4, 4]


def greedy_ids(case, context, prefix, count) -> list[int]:
    ids = list(context)
    for _ in range(count):
        arrays = ([ids], [[1] * len(ids)], case.processor.positions.of(ids, prefix)[None], [prefix])
        with paddle.no_grad():
            logits = case.model(*(paddle.to_tensor(np.array(each, "int64")) for each in arrays))
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(context) :]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("name", NAMES)
def test_neighbours_change_nothing(cases, wanted, name, batch_size):
    assert_rows_same(scored(cases[name], batch_size=batch_size), wanted[name])


@pytest.mark.parametrize("name", CAUSAL)
def test_shared_shots_are_read_once(cases, name):
    case = cases[name]
    shared, whole = (model_scorer(case.model, case.processor, reuse=reuse) for reuse in (True, False))
    assert_rows_same(list(shared(ROWS)), list(whole(ROWS)))
    shots = len(case.processor.tokenizer.text_ids(SHOTS)) + 2
    # One token of the shots may be cut differently where a question follows.
    assert 0 <= shared.tokens_read + 4 * shots - whole.tokens_read <= 4
    again = shared.tokens_read
    next(shared(ROWS[1:2]))
    assert shared.tokens_read - again < shots  # kept from the last time


@pytest.mark.parametrize("name", NAMES)
def test_letters_cost_no_column(cases, name):
    """Four targets of one token read what one of them does, and targets of several tokens all but their last."""
    case = cases[name]
    counts = []
    for targets in (LETTERS[:1], LETTERS):
        scorer = model_scorer(case.model, case.processor, reuse=False)
        (found,) = scorer([replace(ROWS[0], targets=targets)])
        assert len(found) == len(targets)
        counts.append(scorer.tokens_read - sum(each.tokens - 1 for each in found))
    assert counts[0] == counts[1] == len(case.ids(ROWS[0], LETTERS[0])[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_another_shared_part_is_read_anew(cases, wanted, name):
    scorer = model_scorer(cases[name].model, cases[name].processor)
    assert_rows_same(list(scorer(ROWS[:4])), wanted[name][:4])
    short = [replace(row, shared=SHOTS[:30]) for row in ROWS[:4]]
    before, found = scorer.tokens_read, list(scorer(short))
    assert_rows_same(found, wanted[name][:4])
    fresh = model_scorer(cases[name].model, cases[name].processor)
    assert list(fresh(short)) == found  # to the last bit
    assert fresh.tokens_read == scorer.tokens_read - before


@pytest.mark.parametrize("name", CAUSAL)
def test_attention_in_parts_is_the_same(cases, wanted, name, monkeypatch):
    """As rows of many tokens have it: rows apart, and queries of a row apart."""
    for scores in (4_000, 40_000):
        monkeypatch.setattr(prefix_attention, "SCORES", scores)
        monkeypatch.setattr(prefix_attention, "FEWEST_QUERIES", 5)
        assert_rows_same(scored(cases[name]), wanted[name])


@pytest.mark.parametrize("name", ("glm", "glm4"))
def test_logits_in_parts_are_the_same(cases, wanted, name, monkeypatch):
    monkeypatch.setattr(chunks, "LOGITS", 3 * cases[name].model.config.vocab_size)
    assert_rows_same(scored(cases[name]), wanted[name])


def test_rows_keep_their_order_in_windows(cases):
    case = cases["glm4"]
    draw = np.random.default_rng(0)
    rows = [Row(f"{SHOTS}{'7' * int(n)}?\nAnswer:", LETTERS, SHOTS) for n in draw.integers(1, 30, 21)]
    scorer = model_scorer(case.model, case.processor, 2)
    assert scorer.window < len(rows)
    found = list(scorer(rows))
    assert_rows_same(found, [case.wanted(row) for row in rows])
    # A run that goes on at a window has the very bits of one that was not interrupted.
    rest = list(model_scorer(case.model, case.processor, 2)(rows[scorer.window :]))
    assert rest == found[scorer.window :]


def test_probabilities_of_all_tokens_add_up(cases):
    case = cases["glm4"]
    size = case.model.config.vocab_size
    with paddle.no_grad():
        hidden = paddle.randn([3, case.model.config.hidden_size])
        ids = paddle.arange(size).unsqueeze(0).tile([3, 1])
        found, best = case.model.log_probs(hidden, ids)
    assert np.allclose(np.exp(found.numpy()).sum(axis=1), 1.0, atol=1e-5)
    assert best.tolist() == found.argmax(axis=1).tolist()


def test_results_come_as_they_are_known(cases):
    case = cases["glm4"]
    scorer = model_scorer(case.model, case.processor, 1)
    rows = [ROWS[0]] * (scorer.window + 1)
    next(stream := scorer(rows))
    before = scorer.tokens_read
    assert len(list(stream)) == scorer.window
    assert scorer.tokens_read > before


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_is_too_long(cases, name):
    """Its error has both numbers, and one position less is enough."""
    case = cases[name]
    most = case.model.config.max_position
    scorer = model_scorer(case.model, case.processor)
    frame = len(case.ids(Row("", ("a",)), "a")[0])
    row = Row("", ("a",))
    fitting = 0
    for length in range(most - 8, most + 8):
        row = Row("7" * length, ("7",))
        try:
            scorer.check(row)
            fitting = length
        except ContextTooLong as error:
            assert error.needed == most + 1 and error.most == most
            assert str(most + 1) in str(error) and str(most) in str(error)
            break
    context, _, prefix = case.ids(Row("7" * fitting, ("7",)), "7")
    assert case.processor.positions.of(context, prefix).max() == most
    assert fitting > most - frame - 2
    (found,) = scorer([Row("7" * fitting, ("7",))])
    assert math.isfinite(found[0].log_likelihood)
    with pytest.raises(ContextTooLong):
        list(scorer([row]))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("Answer:", ("",)), r"the target '' behind 'Answer:' has no tokens"),
        (Row("Answer:", (" A",), shared="Other"), r"'Answer:' does not begin with its shared part 'Other'"),
        (Row("100 pla", ("ces",)), r"begins with a token that also holds the text's end"),
    ],
)
def test_rows_that_cannot_be_scored(cases, row, reason):
    case = cases["glm4"]
    if "ces" in row.targets:
        ids = case.processor.tokenizer.text_ids
        pair = next(
            (a, b)
            for a in ("你", "祥信", "1", "9", "a")
            for b in ("好", "塔", "9", "b")
            if ids(a + b)[: len(ids(a))] != ids(a)
        )
        row = Row(pair[0], (pair[1],))
    with pytest.raises(UsageError, match=reason):
        list(model_scorer(case.model, case.processor)([row]))


def test_a_prefix_of_its_own_is_not_put_before_a_text_twice(cases):
    """A chat template writes [gMASK]<sop> itself."""
    case = cases["glm4"]
    scorer = model_scorer(case.model, case.processor)
    opening = scorer.encode.opening
    assert opening == "[gMASK]<sop>"
    ids = [scorer.encode.text_ids(text) for text in ("祥信塔", f"{opening}祥信塔")]
    assert ids[0] == ids[1]
    tokenizer = case.processor.tokenizer
    assert ids[0][:2] == [tokenizer.gmask_token_id, tokenizer.sop_token_id]
    assert tokenizer.gmask_token_id not in ids[0][2:]


def test_numbers_that_are_none(cases):
    from tiny_chat import chat_model

    model, case = chat_model("glm4"), cases["glm4"]
    rows = model.model.embed_tokens.weight.numpy()
    rows[:] = np.nan
    model.model.embed_tokens.weight.set_value(rows)
    with pytest.raises(GLMError, match="logits became nan or infinite"):
        list(model_scorer(model, case.processor)(ROWS[:1]))

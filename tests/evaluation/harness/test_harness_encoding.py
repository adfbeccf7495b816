"""Requests of lm-evaluation-harness as rows of ids; no harness is needed for it."""

import pytest
from tiny_chat import processor_of_tiny

from glm.encoding.processor import GLMProcessor
from glm.errors import UsageError
from glm.evaluation.harness.encoding import LEAST_SHARED, RequestEncoder, sharing
from glm.evaluation.likelihood.tokens import RowEncoder

MOST = 63
NAMES = ("glm", "chatglm", "glm4")


@pytest.fixture(params=NAMES)
def requests(request, tokenizer) -> RequestEncoder:
    return requests_of(request.param, tokenizer)


def requests_of(name: str, tokenizer, **options) -> RequestEncoder:
    processor = GLMProcessor(tokenizer) if name == "glm" else processor_of_tiny(name)
    return RequestEncoder(RowEncoder(processor, MOST), **options)


def test_blanks_belong_to_what_follows(tokenizer):
    requests = requests_of("glm4", tokenizer)
    assert requests.pair("Answer: ", "A") == requests.pair("Answer:", " A")
    ids = requests.encode.tokenizer.text_ids
    context, target = requests.pair("Answer: ", "A")
    frame = requests.encode.text_ids("")
    assert [*context, *target] == [*frame, *ids("Answer: A")] and context == [*frame, *ids("Answer:")]


def test_the_beginning_of_a_text(requests):
    """No context is the model's own tokens, once."""
    context, target = requests.pair("", "Answer")
    assert context == requests.encode.text_ids("") and target
    assert context == requests.framed([])


def test_a_long_context_loses_its_beginning(requests):
    """But not the model's own tokens."""
    text = "".join(f" {n}" for n in range(200))
    context, target = requests.pair(text, " A")
    frame = requests.framed([])
    whole = requests.encode.text_ids(text)
    positions = requests.positions.of([*context, *target[:-1]], requests.positions.prompt_prefix(context))
    assert len(whole) > MOST + 1 >= positions.max()
    inner = len(context) - len(frame)
    assert inner > 0 and requests.framed(text_part(requests, context)) == context
    end = len(whole) - (len(frame) - requests._place)
    assert text_part(requests, context) == whole[end - inner : end]
    if len(frame) == 2 and not requests.positions.prompt_prefix(context):
        assert len(context) + len(target) - 1 == MOST + 1  # as much as fits


def text_part(requests, context) -> list[int]:
    frame = len(requests.framed([]))
    return context[requests._place : len(context) - (frame - requests._place)]


def test_a_token_across_the_border_is_scored(tokenizer):
    """It has the end of the context and the beginning of the rest; nothing is lost, nothing twice."""
    requests = requests_of("glm4", tokenizer)
    ids = requests.encode.tokenizer.text_ids
    one, other = next((a, b) for a in "你祥云19aA" for b in "好塔溪9b" if ids(a + b)[: len(ids(a))] != ids(a))
    context, target = requests.pair(one, other)
    assert [*context, *target] == requests.encode.text_ids(one + other)
    assert len(context) < len(requests.encode.text_ids(one))


def test_one_row_for_each_context(requests):
    pairs = [("a b", " c"), ("x", " y"), ("a b", " d"), ("a b", " c"), ("x", "")]
    rows = requests.rows(pairs)
    assert sorted(place for each in rows for place in each.places) == [0, 1, 2, 3]
    for each in rows:
        for place, target in zip(each.places, each.row.targets, strict=True):
            assert (each.row.context, target) == requests.pair(*pairs[place])
    assert sorted(len(each.places) for each in rows) == [1, 3]


@pytest.mark.parametrize("length", [0, 1, 40, MOST - 4, MOST, 150, 400])
def test_windows_score_each_token_once(requests, length):
    text = "祥信塔高"[:1] * length
    rows = requests.windows(text)
    ids = text_part(requests, requests.encode.text_ids(text))
    assert [token for row in rows for token in row.targets[0]] == ids
    start = 0
    for number, row in enumerate(rows):
        before = text_part(requests, row.context)
        assert before == ids[start - len(before) : start] and bool(before) == bool(number)
        start += len(row.targets[0])
        read = [*row.context, *row.targets[0][:-1]]
        assert requests.positions.of(read, row.prefix_length).max() <= MOST
        assert len(read) == requests.room or number == 0  # the last one has all the context that fits


def test_rows_of_one_beginning_share_it(tokenizer):
    requests = requests_of("glm4", tokenizer)
    requests.room = 10_000
    shots = ["0 " * 60, "5 " * 50]
    pairs = [(f"{head}{n}", f" {letter}") for head in shots for n in "789" for letter in "AB"]
    pairs += [("another text", " A")]
    groups = list(sharing(requests.rows(pairs)))
    shared = sorted((len(group), {each.row.shared > LEAST_SHARED for each in group}) for group in groups)
    assert shared in ([(1, {False}), (3, {True}), (3, {True})], [(3, {True}), (4, {False})], [(3, {True}), (4, {True})])
    assert sum(len(group) == 3 for group in groups) >= 1
    for group in groups:
        rows = [each.row for each in group]
        assert all(row.context[: row.shared] == rows[0].context[: row.shared] for row in rows)
        assert all(row.shared < len(row.context) for row in rows)


def test_texts_without_shots_are_one_group(tokenizer):
    """Their batches would be small otherwise."""
    requests = requests_of("glm4", tokenizer)
    pairs = [(f"{n * n} is a number", " A") for n in range(30)]
    (group,) = sharing(requests.rows(pairs))
    assert len(group) == 30 and not any(each.row.shared for each in group)


@pytest.mark.parametrize("name", ["glm", "chatglm"])
def test_nothing_is_shared_where_a_blank_is_filled(tokenizer, name):
    requests = requests_of(name, tokenizer)
    requests.room = 10_000
    rows = requests.rows([("0 " * 60 + n, " A") for n in "789"])
    assert not any(each.row.shared for group in sharing(rows) for each in group)


def test_a_shorter_window(tokenizer):
    assert requests_of("glm4", tokenizer, max_length=20).room == 20
    assert requests_of("glm4", tokenizer, max_length=2000).room == MOST + 1
    with pytest.raises(UsageError, match="max_length is 2, and the model's own tokens alone are 2"):
        requests_of("glm4", tokenizer, max_length=2)

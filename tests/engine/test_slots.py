"""Which slot a prompt gets, what it finds there, and what is overwritten."""

import numpy as np
import pytest
from simulated import SimulatedRuntime

from glm.engine.slots import Slots

ONE, TWO, THREE = ([*range(start, start + 20)] for start in (100, 200, 300))


@pytest.fixture
def slots() -> Slots:
    """Three slots that held three texts, the oldest one in the middle."""
    made = Slots(SimulatedRuntime())
    made.reserve(3, 40)
    taken = made.open(ONE, 3)
    assert taken.tolist() == [0, 1, 2]
    for slot, ids in zip((1, 0, 2), (TWO, ONE, THREE), strict=True):
        made.cache.content[:, slot, : len(ids)] = np.array(ids) + 1
        made.note(slot, ids)
        made.close(np.array([slot]))
    return made


def test_the_longest_beginning_is_taken_where_it_lies(slots):
    taken = slots.open([*THREE, 7], 1)
    assert taken.tolist() == [2] and slots.extend(2, [*THREE, 7]) == 20


def test_else_the_one_that_was_used_least_recently(slots):
    assert slots.open([9, 9], 1).tolist() == [1]
    assert slots.open([9, 9], 1).tolist() == [0]
    assert slots.open([9, 9], 1).tolist() == [2]


def test_else_an_empty_one(slots):
    slots.note(2, [])
    assert slots.open([9, 9], 1).tolist() == [2]


def test_a_long_text_is_not_given_up_for_a_short_beginning(slots):
    """It is copied from there; unless there is no other slot."""
    ids = [*THREE[:5], 7, 8]
    assert slots.open(ids, 1).tolist() == [1]
    assert slots.extend(1, ids) == 5
    assert np.array_equal(slots.cache.content[0, 1, :5], np.array(THREE[:5]) + 1)
    assert slots.prefixes[2] == THREE and slots.prefixes[1] == THREE[:5]
    slots.open([9], 1)
    assert slots.open(ids, 1).tolist() == [2] and slots.prefixes[2] == THREE[:5]


def test_what_was_continued_was_used(slots):
    slots.open(ids := [*TWO[:5], 7, 8], 1)
    slots.extend(0, ids)  # from slot 1, which nobody used for longest
    assert slots.open([9], 1).tolist() == [2]


def test_a_prompt_that_is_held_whole_is_read_from_its_last_token(slots):
    slot = int(slots.open(THREE, 1)[0])
    assert slots.extend(slot, THREE) == 19


def test_slots_that_decode_are_the_first_ones(slots):
    """Starting and closing in any order, all that a slot holds comes along."""
    draw, texts = np.random.default_rng(0), {}
    slots.release()
    slots.reserve(6, 40)
    for number in range(300):
        if slots.free and draw.random() < 0.5:
            ids = [1000 + number] * int(draw.integers(1, 30))
            slot = int(slots.open(ids, 1)[0])
            slots.cache.content[0, slot, : len(ids)] = np.array(ids)
            slots.note(slot, ids)
            texts[number] = [slot, ids, False]
        elif texts:
            number = int(draw.choice(sorted(texts)))
            slot, _, started = texts[number]
            moved = slots.close(np.array([slot])) if started else slots.start(slot)
            for text in texts.values():
                text[0] = moved.get(text[0], text[0])
            if started:
                del texts[number]
            else:
                texts[number][2] = True
        assert sorted(slot for slot, _, started in texts.values() if started) == list(range(slots.active))
        for slot, ids, _ in texts.values():
            assert slots.in_use[slot] and slots.prefixes[slot] == ids and slots.lengths[slot] == len(ids)
            assert slots.cache.content[0, slot, : len(ids)].tolist() == ids

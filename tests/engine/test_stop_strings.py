"""Stop strings: found wherever tokens break them, not part of the text, and held back while they may still come."""

import pytest
from engine_cases import NAMES, TEXTS
from tiny_chat import KINDS

from glm import GenerationConfig
from glm.engine import Request, StopStrings
from glm.errors import UsageError

CONFIG = GenerationConfig(12)
SPOKEN = "祥信塔很有名,高72米。User: 你好"


def watched(tokenizer, ids, strings) -> tuple[StopStrings, int]:
    """A watcher that took tokens up to the stop, and how many."""
    stops = StopStrings(tokenizer, strings)
    for count, token in enumerate(ids, 1):
        if stops.put(token):
            return stops, count
    stops.end()
    return stops, len(ids)


@pytest.mark.parametrize(
    "strings", [["User:"], ["高72米"], [":", "User:"], ["er: 你", "User: 你好吗"], ["。"], ["祥"]], ids=str
)
@pytest.mark.parametrize("name", KINDS)
def test_a_text_ends_before_the_first_stop_string(cases, name, strings):
    tokenizer = cases[name].processor.tokenizer
    ids = tokenizer.text_ids(SPOKEN)
    written = tokenizer.decode(ids)
    found = [(written.index(string), string) for string in strings if string in written]
    assert found
    place, string = min(found)
    stops, count = watched(tokenizer, ids, strings)
    assert (stops.text, stops.found) == (written[:place], string)
    assert string in tokenizer.decode(ids[:count]) and string not in tokenizer.decode(ids[: count - 1])
    assert stops.certain == len(stops.text) and stops.put(5) and stops.text == written[:place]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_certain_stays(cases, name):
    """At every token the certain part is a beginning of the text in the end; without stop strings it is all of it."""
    tokenizer = cases[name].processor.tokenizer
    for strings in ([], ["User: 你们"], ["User:"], ["aab", "高72米。User?"]):
        stops, shown = StopStrings(tokenizer, strings), []
        for token in tokenizer.text_ids(SPOKEN):
            ended = stops.put(token)
            shown.append(stops.text[: stops.certain])
            assert strings or shown[-1] == stops.text
            if ended:
                break
        stops.end()
        assert stops.certain == len(stops.text)
        assert all(stops.text.startswith(part) for part in shown)
        assert stops.found == ("User:" if strings == ["User:"] else None)


def test_held_back_text():
    class Letters:
        def decode(self, ids, skip_special_tokens=True):
            return "".join(map(chr, ids))

    stops, seen = StopStrings(Letters(), ["aab"]), []
    for letter in "xaaab":
        stops.put(ord(letter))
        seen.append(stops.text[: stops.certain])
    assert seen == ["x", "x", "x", "xa", "xa"] and stops.text == "xa"


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_stops_there(cases, name):
    """A piece of what the model writes ends the same text earlier, and the other texts not at all."""
    case, tokenizer = cases[name], cases[name].processor.tokenizer
    whole = case.wanted(CONFIG)[0]
    row, string = next(
        (row, piece)
        for row, ids in enumerate(whole)
        for place, token in enumerate(ids[1:-2], 1)
        if (piece := tokenizer.decode([token]).strip()) and piece in tokenizer.decode(ids[: place + 1])
    )
    stops = [StopStrings(tokenizer, [string]) if place == row else None for place in range(len(TEXTS))]
    found = case.engine().finish([Request(*r) for r in zip(case.prompts, [CONFIG] * 4, stops, strict=True)])
    assert stops[row].found == string and string not in stops[row].text
    short = found[row].tokens
    assert len(short) < len(whole[row]) and whole[row][: len(short)] == short
    assert [found[place].tokens for place in range(4) if place != row] == [*whole[:row], *whole[row + 1 :]]
    again = StopStrings(tokenizer, [string])
    alone = case.engine().stream(case.prompts[row], CONFIG, again)
    assert [*alone] == short and again.text == stops[row].text


def test_the_end_of_the_text_is_held_back_no_longer(cases):
    tokenizer = cases["glm4"].processor.tokenizer
    stops = StopStrings(tokenizer, ["石桥。"])
    assert not any(stops.put(token) for token in tokenizer.text_ids("是石桥"))
    assert stops.text[: stops.certain] == "是"
    assert not stops.end() and stops.text[: stops.certain] == "是石桥"


@pytest.mark.parametrize("name", NAMES)
def test_streamed_answers(cases, name):
    """Joined they are the processor's answer, and with a stop string what stands before that."""
    case = cases[name]
    for prompt in case.prompts:
        answer = case.processor.answer(case.wanted(CONFIG, [prompt])[0][0])
        assert "".join(case.processor.stream(case.engine().stream(prompt, CONFIG))) == answer
        for piece in (answer[2:4], answer[-1:], answer[:1]):
            if piece.strip():
                short = "".join(case.processor.stream(case.engine().stream(prompt, CONFIG), [piece]))
                assert short == case.processor.postprocess(answer[: answer.index(piece)])


def test_what_is_refused(cases):
    tokenizer = cases["glm4"].processor.tokenizer
    with pytest.raises(UsageError, match="an empty stop string"):
        StopStrings(tokenizer, ["a", ""])
    request = Request([1, 2], GenerationConfig(9, num_beams=2), StopStrings(tokenizer, ["a"]))
    with pytest.raises(UsageError, match="stop strings end a sequence of one beam, and num_beams is 2"):
        cases["glm4"].engine().finish([request])

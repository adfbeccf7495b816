"""A script's arguments from a JSON or YAML file, with flags behind it."""

import argparse
import json

import pytest

from glm.cli.argument_file import expand, names_file, repeated_flags
from glm.cli.script import ScriptParser
from glm.errors import UsageError
from glm.training.arguments import ModelArguments, parse_arguments

CONTENT = {
    "model": "GLM-4",
    "count": 3,
    "rate": 1e-4,
    "loud": True,
    "quiet": False,
    "draw": True,
    "many": ["一", "二"],
    "settings": {"名": 1},
    "absent": None,
}


@pytest.fixture
def parser() -> ScriptParser:
    parser = ScriptParser("a script")
    parser.add_argument("texts", nargs="*")
    for name, kind in {"model": str, "count": int, "rate": float, "settings": json.loads, "absent": str}.items():
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--many", nargs="+")
    parser.add_argument("--loud", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--draw", action=argparse.BooleanOptionalAction)
    return parser


@pytest.fixture
def given(parser, tmp_path):
    """What the parser makes of a file and more words."""

    def parsed(content, *more, suffix=".yaml"):
        path = tmp_path / f"run{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return parser.parse_args([str(path), *more])

    return parsed


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_every_kind_of_value(given, suffix):
    found = given(CONTENT, suffix=suffix)
    assert (found.model, found.count, found.rate) == ("GLM-4", 3, 1e-4)
    assert (found.loud, found.quiet, found.draw) == (True, False, True)
    assert (found.many, found.settings, found.absent) == (["一", "二"], {"名": 1}, None)
    assert found.texts == []


def test_yaml_as_people_write_it(given):
    found = given("# GLM-4\nmodel: output/qg  # trained\nrate: 1e-4\ndraw: no\nmany:\n  - 一\n  - 二\n")
    assert (found.model, found.rate, found.draw, found.many) == ("output/qg", 1e-4, False, ["一", "二"])


def test_flags_behind_the_file_win(given):
    found = given(CONTENT, "--count", "7", "--no-draw", "--many", "三", "--quiet")
    assert (found.count, found.draw, found.many, found.quiet) == (7, False, ["三"], True)
    assert found.model == "GLM-4"


def test_texts_of_the_file_stand_where_the_command_line_has_none(given):
    content = {"texts": ["云", "溪 桥"], "model": "m"}
    assert given(content).texts == ["云", "溪 桥"]
    assert given(content, "--count", "1").texts == ["云", "溪 桥"]
    assert given(content, "--count", "1", "雨").texts == ["雨"]
    assert given(content, "雨", "雪").texts == ["雨", "雪"]
    assert given({"texts": "云"}).texts == ["云"]


def test_values_that_look_like_flags(given):
    assert given({"model": "--loud"}).model == "--loud"
    assert given({"model": "- 短", "count": -3}).count == -3


def test_words_without_a_file(parser):
    assert expand(["--model", "m", "x.yaml"], parser) == ["--model", "m", "x.yaml"]
    assert expand([], parser) == []
    assert names_file(["run.yaml"]) and not names_file(["run.txt"]) and not names_file(["--run.yaml"])


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("- 1\n", ".yaml", "holds a list; one object of argument names and values is needed"),
        ("", ".yaml", "holds nothing; one object"),
        ("a: [1\n", ".yaml", r"is not valid YAML \(.*\): correct the file of arguments"),
        ('{"a": 1,}', ".json", r"is not valid JSON \(.*\): correct the file of arguments"),
        ("model: caf\u00e9".encode("latin-1"), ".yaml", r"line 1: not UTF-8 \(byte 0xe9\); save the file as UTF-8"),
        ({"modle": "m"}, ".yaml", r"unknown argument --modle; did you mean --model\? \(see --help\)"),
        ({"count": "many"}, ".json", "argument --count: invalid int value: 'many'"),
        ({"loud": "no"}, ".json", "loud is 'no' in the file of arguments, and must be true or false"),
    ],
)
def test_what_is_wrong_is_said(given, content, suffix, message):
    with pytest.raises(UsageError, match=message) as error:
        given(content, suffix=suffix)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(parser):
    with pytest.raises(UsageError, match=r"none.json cannot be read: No such file"):
        parser.parse_args(["none.json"])


REPEATED = {
    "the same value": (["--count", "1", "--count", "1"], ["--count is given 2 times: --count 1 counts"]),
    "a form with =": (["--count=1", "--rate", "1", "--count", "2"], ["--count is given 2 times: --count 2 counts"]),
    "thrice, and another": (
        ["--model", "a", "--model=b", "--rate", "-1", "--model", "c", "text", "--rate", "-2.5"],
        ["--model is given 3 times: --model c counts", "--rate is given 2 times: --rate -2.5 counts"],
    ),
    "several values": (["--many", "a", "b", "--many", "c", "d"], ["--many is given 2 times: --many c d counts"]),
    "a switch and its opposite": (["--draw", "--no-draw"], ["--no-draw is given 2 times: --no-draw counts"]),
    "a switch": (["--loud", "--loud", "text"], ["--loud is given 2 times: --loud counts"]),
    "what gathers": (["--each", "a", "--each", "b"], []),
    "once": (["--count", "1", "--model", "--", "--count", "2"], []),
}


@pytest.mark.parametrize(("words", "lines"), REPEATED.values(), ids=REPEATED)
def test_a_flag_given_twice_is_said(parser, words, lines):
    parser.add_argument("--each", action="append")
    assert repeated_flags(words, parser) == lines


def test_a_flag_given_twice_is_said_by_every_parser(parser, capsys):
    assert parser.parse_args(["--count", "1", "--count", "2"]).count == 2
    assert capsys.readouterr().err == "--count is given 2 times: --count 2 counts\n"
    parse_arguments([ModelArguments], "", ["--r", "4", "--lora_rank", "16"])
    assert capsys.readouterr().err == "--r is given 2 times: --r 16 counts\n"


def test_what_a_flag_says_behind_the_file_is_no_repetition(given, capsys):
    assert given({"count": 1}, "--count", "2").count == 2
    assert capsys.readouterr().err == ""


def test_a_list_for_a_flag_that_gathers(parser, given):
    """Each of the list's, or those of the command line in their place."""
    parser.add_argument("--each", action="append")
    assert given({"each": ["a", "b"]}, "x").each == ["a", "b"]
    assert given({"each": "a"}).each == ["a"]
    assert given({"each": ["a", "b"]}, "--each", "c", "--each", "d").each == ["c", "d"]


def test_the_adapters_of_a_training_run():
    options = parse_arguments([ModelArguments], "", ["--lora_path", "a", "--lora_path", "b"])[0]
    assert options.lora_path == ["a", "b"]
    assert parse_arguments([ModelArguments], "", [])[0].lora_path is None

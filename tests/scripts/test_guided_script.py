"""infer_generation.py --json_schema and --response_format: every text is JSON, streamed, drawn, in conversations."""

import io
import json
import sys
from functools import partial

import pytest

import export_generation_model
import infer_generation
from tests.in_process import run_main

SCHEMA = {
    "title": "A city",
    "type": "object",
    "properties": {
        "城市": {"type": "string", "maxLength": 4},
        "capital": {"type": "boolean"},
        "rivers": {"type": "array", "items": {"enum": ["长江", "黄河"]}, "maxItems": 2},
    },
    "required": ["城市", "capital", "rivers"],
    "additionalProperties": False,
}
ASKED = ["你好", "云溪桥建于哪一年？", "a"]
LENGTHS = ["--src_length", "200", "--tgt_length"]
DRAWN = ["--do_sample", "--temperature", "2", "--seed", "3"]
needs_onnx_runtime = pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    path = tmp_path_factory.mktemp("schema") / "city.json"
    path.write_text(json.dumps(SCHEMA, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture
def infer(request, chat_models, folder, monkeypatch, capsys):
    """(number of tokens, further arguments) → code, output and errors, of a kind's export to ONNX."""
    place = folder / request.param
    if not place.exists():
        where = ["--model_name_or_path", str(chat_models[request.param]), "--output_path", str(place / "glm")]
        code, _, err = run_main(export_generation_model.main, monkeypatch, capsys, *where, "--format", "onnx")
        assert code == 0, err
    command = partial(run_main, infer_generation.main, monkeypatch, capsys, "--model_path", str(place), *LENGTHS)
    return lambda tokens, *more: command(str(tokens), *map(str, more))


every_kind = pytest.mark.parametrize("infer", ["chatglm", "chatglm2", "chatglm3", "glm4", "glm4-0414"], indirect=True)
one_kind = pytest.mark.parametrize("infer", ["glm4"], indirect=True)


def texts(out: str) -> list[str]:
    return [line.removeprefix("  → ") for line in out.splitlines() if line.startswith("  → ")]


def is_city(text: str) -> bool:
    """What the schema says, by hand."""
    found = json.loads(text)
    return (
        list(found) == ["城市", "capital", "rivers"]
        and len(found["城市"]) <= 4
        and found["capital"] in (True, False)
        and len(found["rivers"]) <= 2
        and set(found["rivers"]) <= {"长江", "黄河"}
    )


@needs_onnx_runtime
@every_kind
@pytest.mark.parametrize("more", [[], ["--batch_size", "3", *DRAWN], ["--stream"]], ids=["greedy", "drawn", "streamed"])
def test_every_text_is_json(infer, schema, more):
    code, out, err = infer(90, "--json_schema", schema, *more, *ASKED)
    assert code == 0, err
    assert len(texts(out)) == 3 and all(map(is_city, texts(out))), out
    assert "before their JSON was complete" not in err


@needs_onnx_runtime
@one_kind
def test_a_stream_is_the_text(infer, schema):
    assert texts(infer(30, "--json_schema", schema, "--stream", *ASKED)[1]) == texts(
        infer(30, "--json_schema", schema, *ASKED)[1]
    )


@needs_onnx_runtime
@one_kind
def test_a_conversation_is_json(infer, schema, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("你好\n再说一遍\n"))
    code, out, err = infer(90, "--json_schema", schema, "--chat")
    assert code == 0, err
    assert len(out.splitlines()) == 2 and all(map(is_city, out.splitlines()))


@needs_onnx_runtime
@one_kind
@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_a_text_that_is_cut_is_said_to_be(infer, more):
    code, out, err = infer(1, "--response_format", "json_object", *more, *ASKED)
    assert code == 0 and texts(out) == ["{"] * 3
    assert err.splitlines()[-1] == "3 text(s) ended before their JSON was complete: raise --tgt_length"
    code, out, err = infer(3, *more, *ASKED)
    assert code == 0 and not any(text.startswith("{") for text in texts(out)) and "JSON" not in err


@needs_onnx_runtime
@one_kind
def test_a_schema_that_cannot_be_compiled(infer, tmp_path):
    (tmp_path / "odd.json").write_text('{"type": "string", "pattern": "(?=a)"}')
    code, out, err = infer(9, "--json_schema", tmp_path / "odd.json", "a")
    assert (code, out) == (2, "")
    assert err == (
        "error: texts cannot be held to this schema or grammar: regex parse error: look-around, including look-ahead "
        "and look-behind, is not supported\n"
    )


def test_paddles_step_graph_is_guided_as_well(run, chat_models, schema, tmp_path):
    """Paddle Inference runs the full loop of such an export, unless text has to be held to something."""
    where = ["--model_name_or_path", chat_models["glm4-0414"], "--output_path", tmp_path / "glm"]
    assert run("export_generation_model.py", *where).code == 0
    result = run("infer_generation.py", "--model_path", tmp_path, *LENGTHS, "90", "--json_schema", schema, *ASKED[:2])
    assert result.code == 0, result.err
    assert len(result.texts) == 2 and all(map(is_city, result.texts))

"""`glm_infer --chat` prints what infer_generation.py's terminal prints, for every kind of chat model."""

import io

import pytest
from cpp_exports import CHATS, SPARSE_KINDS, Export, make_export

from glm.cli.terminal import converse
from glm.encoding.chat_processor import THINKING

pytestmark = pytest.mark.long
LONG = "五" * 8
QUESTIONS = f'你好\n\n第二个 <|user|> 问题\n"""\n三\n行\n"""\n四/nothink\n{LONG}\n六\n/clear\n你好\n/exit\nnever\n'


@pytest.fixture(scope="module", params=CHATS)
def export(request, tmp_path_factory, programs) -> Export:
    return Export(make_export(request.param, tmp_path_factory.mktemp(request.param)), programs)


def said_by_python(generator, system: str | None, monkeypatch, capsys, **options) -> str:
    config = generator.processor.generation_config(**options)
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTIONS))
    capsys.readouterr()
    converse(lambda: generator.conversation(config, system))
    return capsys.readouterr().out


@pytest.mark.parametrize("thinking", [None, True, False])
@pytest.mark.parametrize("stop", [(), ("1",)], ids=["", "stop"])
def test_a_conversation(export, monkeypatch, capsys, thinking, stop):
    """Turn by turn, with a system message where there is one, questions of several lines, turns that are forgotten."""
    generator = export.generator(lengths=(90, 24)).with_stop_strings(stop)
    processor = generator.processor
    words = ["--chat", "--src_length", 90, "--tgt_length", 24, "--min_tgt_length", 8]
    words += [word for each in stop for word in ("--stop", each)]
    if thinking is not None:
        words += ["--enable_thinking", str(thinking).lower()]
        if THINKING not in processor.tokenizer.readable_variables():
            run = export.infer(*words, code=2, stdin=QUESTIONS)
            assert "this model's chat template reads no variable 'enable_thinking'; it reads none" in run.stderr
            return
        processor.set_thinking(thinking)
    system = "说话" if "system" in processor.chat.roles else None
    wanted = said_by_python(generator, system, monkeypatch, capsys, min_length=8)
    run = export.infer(*words, *(["--system", system] if system else []), stdin=QUESTIONS)
    assert run.stdout == wanted
    assert wanted.count("\n") >= 6
    assert "an empty line says this" in run.stderr


@pytest.mark.parametrize("name", SPARSE_KINDS)
def test_thoughts_come_and_go(name, tmp_path, programs, monkeypatch, capsys):
    """In a model that writes <think> and </think> often."""
    export = Export(make_export(name, tmp_path, likely=("<think>", "</think>", "<|assistant|>")), programs)
    generator, apart = export.generator(lengths=(120, 40)), 0
    for seed in range(8):
        drawn = {"do_sample": True, "top_k": 0, "seed": seed}
        wanted = said_by_python(generator, None, monkeypatch, capsys, min_length=30, **drawn)
        words = ["--chat", "--src_length", 120, "--tgt_length", 40, "--min_tgt_length", 30, "--do_sample"]
        assert export.infer(*words, "--top_k", 0, "--seed", seed, stdin=QUESTIONS).stdout == wanted
        apart += wanted.count("\n\n")  # between thoughts and what is said
    assert apart >= 3

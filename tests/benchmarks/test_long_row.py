"""The benchmark of long rows, with the widths of a tiny model."""

import pytest

from benchmarks.long_row import main

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("preset", "recompute"),
    [("glm-4-9b-tiny", True), ("glm-4-9b-tiny", False), ("chatglm-6b-tiny", True)],
    ids=["recomputed", "kept", "ChatGLM"],
)
def test_what_grows_grows_with_the_tokens(without_kernels, capsys, preset, recompute):
    passes = main(["--preset", preset, "--tokens", "1200", "2400", *["--no_recompute"] * (not recompute)])
    out = capsys.readouterr().out
    short, long = passes
    assert (short.tokens, long.tokens) == (1200, 2400)
    assert 1.5 < long.above / short.above < 2.1
    for each in passes:
        assert each.above == pytest.approx(each.computed - each.standing, rel=0.05)
        assert each.forward > 0 and each.backward > 0
    assert f"one layer of {preset}, {'recomputed' if recompute else 'kept'}, and" in out
    assert f"{long.above / short.above:.2f}x" in out


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--tokens", "0", "0 is no number of tokens from 1 on"),
        ("--tokens", "many", "many is no number of tokens from 1 on"),
        ("--preset", "glm-9", "glm-9 is none of chatglm-6b, chatglm2-6b, "),
        ("--preset", "glm-tiny-chinese", "glm-tiny-chinese is none of chatglm-6b, chatglm2-6b, "),
    ],
)
def test_wrong_values_are_refused(capsys, flag, value, message):
    with pytest.raises(SystemExit):
        main([flag, value])
    assert message in capsys.readouterr().err

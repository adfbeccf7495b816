"""The benchmark of long rows, with the widths of a tiny model."""

import pytest

from benchmarks.long_row import main


@pytest.mark.parametrize("recompute", [True, False], ids=["recomputed", "kept"])
def test_what_grows_grows_with_the_tokens(capsys, recompute):
    passes = main(["--preset", "glm-4-9b-tiny", "--tokens", "1200", "2400", *["--no_recompute"] * (not recompute)])
    out = capsys.readouterr().out
    short, long = passes
    assert (short.tokens, long.tokens) == (1200, 2400)
    assert 1.5 < long.above / short.above < 2.1
    for each in passes:
        assert each.above == pytest.approx(each.computed - each.standing, rel=0.05)
        assert each.forward > 0 and each.backward > 0
    assert f"one layer of glm-4-9b-tiny, {'recomputed' if recompute else 'kept'}, and" in out
    assert f"{long.above / short.above:.2f}x" in out


@pytest.mark.parametrize(("tokens", "message"), [("0", "0 is below 1"), ("many", "invalid")])
def test_wrong_tokens_are_refused(capsys, tokens, message):
    with pytest.raises(SystemExit):
        main(["--tokens", tokens])
    assert message in capsys.readouterr().err

"""What ONNX Runtime's attention is told while a graph is opened: the same as in Python (tests/runtime)."""

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest
from cpp_exports import Export, make_export

from glm.runtime.onnx_step import ALL_SCORES, ALL_SCORES_POSITIONS

pytestmark = pytest.mark.long

# A library that is too old to be taken, and says what it sees: when it is asked for its functions, and at the end.
LIBRARY = r"""
#include <stdio.h>
#include <stdlib.h>

static void say(const char *when) {
    const char *found = getenv("%s");
    fprintf(stderr, "%%s %%s\n", when, found ? found : "-");
}

static const void *functions(unsigned version) { say("opening"); return NULL; }
static const char *number(void) { return "1.31.0"; }
static const struct { const void *(*get)(unsigned); const char *(*version)(void); } base = {functions, number};

const void *OrtGetApiBase(void) { return &base; }
__attribute__((destructor)) static void end(void) { say("behind"); }
"""


@pytest.fixture(scope="module")
def export_of(tmp_path_factory, programs):
    return cache(lambda name: Export(make_export(name, tmp_path_factory.mktemp(name)), programs))


@pytest.fixture
def seen(export_of, tmp_path, monkeypatch):
    """(while a graph of so many positions is opened, behind that)."""
    (tmp_path / "seen.c").write_text(LIBRARY % ALL_SCORES)
    subprocess.run(["cc", "-shared", "-fPIC", "seen.c", "-o", "seen.so"], cwd=tmp_path, check=True)
    monkeypatch.setenv("GLM_ONNXRUNTIME", str(tmp_path / "seen.so"))
    monkeypatch.delenv(ALL_SCORES, raising=False)

    def run(positions: int, name: str = "glm4-0414") -> tuple[str, str]:
        export = export_of(name)
        manifest: Path = export.folder / "glm.onnx.manifest.json"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"max_position": positions - 1}))
        lines = export.infer("x", code=1).stderr.splitlines()
        said = dict(line.split(" ") for line in lines if line.count(" ") == 1)
        return said["opening"], said["behind"]

    return run


def test_few_positions_have_all_scores_and_many_have_tiles(seen):
    for positions in (64, ALL_SCORES_POSITIONS):
        assert seen(positions) == ("1", "-"), "other sessions of the process would attend so, too"
    assert seen(ALL_SCORES_POSITIONS + 1) == ("-", "-")


def test_a_cache_of_twice_the_positions_counts(seen):
    """Of models whose tokens have two."""
    assert seen(ALL_SCORES_POSITIONS // 2, "chatglm") == ("1", "-")
    for positions in (ALL_SCORES_POSITIONS // 2 + 1, ALL_SCORES_POSITIONS):
        assert seen(positions, "chatglm") == ("-", "-")


@pytest.mark.parametrize("value", ["0", "1"])
def test_who_set_the_variable_has_it_as_it_is_set(seen, monkeypatch, value):
    monkeypatch.setenv(ALL_SCORES, value)
    for positions in (64, ALL_SCORES_POSITIONS + 1):
        assert seen(positions) == (value, value)

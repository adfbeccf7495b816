"""Built with AddressSanitizer and UndefinedBehaviorSanitizer: mutated files, and texts of every kind."""

import json
import subprocess
from pathlib import Path

import pytest
from building import ROOT, build, missing
from cpp_exports import NAMES, Export, make_export

pytestmark = pytest.mark.slow
COUNT = 10_000
GENERATION = {
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 20,
    "top_p": 0.9,
    "eos_token_id": [754, 761],
    "stop_strings": ["x", "。"],
    "bad_words_ids": [[5], [6]],
    "suppress_tokens": [1, 2],
    "max_new_tokens": 32,
    "guidance_scale": None,
    "unknown": {"a": [1, 2.5, None, True, "b"]},
}


@pytest.fixture(scope="module")
def sanitized() -> Path:
    if reason := missing():
        pytest.skip(reason)
    return build(ROOT / "output" / "cpp-sanitized", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DGLM_SANITIZE=ON")


@pytest.mark.parametrize("name", ["glm4", "glm4-0414", "glm45"])
def test_mutated_files(sanitized, tmp_path, name):
    folder = make_export(name, tmp_path)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    run = subprocess.run([sanitized / "fuzz_readers", str(COUNT), folder], capture_output=True, text=True, timeout=3000)
    assert run.returncode == 0, run.stderr[-3000:]
    for line in run.stdout.splitlines():
        _, taken, refused = line.split()
        assert int(taken) + int(refused) == COUNT and int(taken) > 0 and int(refused) > COUNT // 20, line


@pytest.mark.parametrize("name", NAMES)
def test_texts(sanitized, tmp_path, monkeypatch, name):
    """What ONNX Runtime keeps to its end is not ours to free."""
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")
    export = Export(make_export(name, tmp_path), sanitized)
    for words in ("--batch_size 3", "--num_beams 3", "--do_sample --top_p 0.9", "--stream --stop 。"):
        export.infer("--tgt_length", 12, *words.split(), "你好", "a b c", "祥信塔 <|user|> 3")
    if name != "glm-chinese":
        export.infer("--chat", "--tgt_length", 6, stdin="你好\n再说\n/clear\n好\n")

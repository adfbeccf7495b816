"""glm_infer on the command line: its errors and exit codes are those of infer_generation.py."""

import json
import shutil
import signal
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from cpp_exports import Export, make_export

import infer_generation
from tests.in_process import run_main

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def export(tmp_path_factory, programs) -> Export:
    return Export(make_export("glm4", tmp_path_factory.mktemp("glm4")), programs)


@pytest.fixture(scope="module")
def glm_export(tmp_path_factory, programs) -> Export:
    return Export(make_export("glm-chinese", tmp_path_factory.mktemp("glm")), programs)


@pytest.fixture
def python(monkeypatch, capsys):
    """The last line of infer_generation.py's standard error, and its exit code."""

    def run(*words) -> tuple[str, int]:
        code, _, err = run_main(infer_generation.main, monkeypatch, capsys, *map(str, words))
        return err.rstrip("\n").rsplit("\n", 1)[-1], code

    return run


def cpp(programs: Path, *words, stdin: bytes = b"") -> tuple[str, int]:
    run = subprocess.run([programs / "glm_infer", *map(str, words)], capture_output=True, input=stdin, timeout=60)
    return run.stderr.decode().rstrip("\n").rsplit("\n", 1)[-1], run.returncode


SAME = (
    "--temperature -1",
    "--temperature nan",
    "--temperature 1e-9",
    "--temperature inf",
    "--top_p 1.5",
    "--min_p -0.1",
    "--top_k -2",
    "--num_beams 0",
    "--seed -1",
    "--repetition_penalty 0",
    "--presence_penalty 3",
    "--min_tgt_length 9 --tgt_length 4",
    "--tgt_length 0",
    "--tgt_length x",
    "--top_p x",
    "--batch_size 0",
    "--cpu_threads -1",
    "--cpu_threads 5000",
    "--stop=",
    "--stream --num_beams 2",
    "--chat --num_beams 2",
    "--system hello",
    "--chat text",
    "--chat --plain",
    "--backend nothing",
    "--src_length 2",
    "--src_length 600",
    "--max_length 5",
    "--max_length 20 --tgt_length 19",
    "--no_block_position",
    "--kv_cache_size 12Q",
    "--kv_cache_size 100",
    "--model_prefix other",
    "--nonsense",
    "--nosense=3",
    "--output_file /nowhere/at/all",
    "--output_file /tmp",
    "--input_file /nowhere",
    "--batch_size",
    "--backend paddle",
    "--enable_thinking true",
    "--enable_thinking x",
)


@pytest.mark.parametrize("words", SAME)
def test_wrong_flags(export, python, words):
    flags = ["--model_path", export.folder, *words.split()]
    if not {"--chat", "--input_file"} & {*words.split()}:
        flags.append("你好")
    line, code = python(*flags)
    assert code in (1, 2) and line.startswith("error: ")
    assert cpp(export.programs, *flags) == (line, code)


@pytest.mark.parametrize("flag", ["src_length", "tgt_length", "min_tgt_length", "max_length"])
def test_lengths_that_no_sum_holds(export, flag):
    for value in (2**63 - 1, -(2**63), 2**40 + 1):
        line, code = cpp(export.programs, "--model_path", export.folder, f"--{flag}={value}", "x")
        assert code == 2 and line.startswith(f"error: {flag} is {value}, and no length is beyond 1,099,511,627,776")


@pytest.mark.parametrize("value", [b"1e300", b"9223372036854775807", b"99999999999999999999"])
def test_a_length_of_a_file_that_no_number_holds(export, python, tmp_path, value):
    folder = tmp_path / "export"
    shutil.copytree(export.folder, folder)
    change(folder, "generation_config.json", b'{"max_new_tokens": ' + value + b"}", True)
    for words in (["--tgt_length", "4"], ["--src_length", "40"]):
        words = ["--model_path", folder, *words, "x"]
        assert cpp(export.programs, *words)[1] == python(*words)[1] == 0


def test_what_is_only_python(export):
    for flag in ("--json_schema=x", "--prompt_lookup=8", "--predict_data=x"):
        line, code = cpp(export.programs, "--model_path", export.folder, flag)
        assert (code, line.split(":")[0]) == (2, "error") and "infer_generation.py's" in line
    line, code = cpp(export.programs, "--model_path", export.folder, "--device", "gpu", "x")
    assert code == 2 and "this program runs on the CPU" in line
    line, code = cpp(export.programs, "--model_path", export.folder, "--input_file", "rows.jsonl")
    assert code == 2 and "one text per line" in line


def test_no_directory(python, programs, tmp_path):
    for words in (["--model_path", tmp_path / "no", "x"], ["--model_path", tmp_path, "x"]):
        assert cpp(programs, *words) == python(*words)
    line, code = cpp(programs, "x")
    assert (line, code) == python("x")


def change(folder: Path, name: str, content: bytes, described: bool) -> None:
    """Replaces a file of an export; `described`: as if it had been exported so."""
    (folder / name).write_bytes(content)
    manifest = folder / "glm.onnx.manifest.json"
    if described and name != manifest.name:
        entries = json.loads(manifest.read_text())
        entries["files"][name] = {"size": len(content), "crc32": f"{zlib.crc32(content):08x}"}
        manifest.write_text(json.dumps(entries))


def damaged_generation(values: dict) -> bytes:
    return json.dumps(values).encode()


MANIFEST = "glm.onnx.manifest.json"
DAMAGE = {
    "size": ("tokenizer_config.json", lambda old: old + b" ", False),
    "checksum": ("config.json", lambda old: old.replace(b"e", b"f", 1), False),
    "version": (MANIFEST, lambda old: old.replace(b'"format_version": 5', b'"format_version": 9'), False),
    "format": (MANIFEST, lambda old: old.replace(b'"format": "onnx"', b'"format": "paddle"'), False),
    "list": (MANIFEST, lambda old: b"[]", False),
    "empty": (MANIFEST, lambda old: b"", False),
    "pointer": (MANIFEST, lambda old: b"version https://git-lfs.github.com/spec/v1\noid", False),
    "eos": ("generation_config.json", lambda old: damaged_generation({"eos_token_id": "x"}), True),
    "far eos": ("generation_config.json", lambda old: damaged_generation({"eos_token_id": [5, 99999]}), True),
    "length": ("generation_config.json", lambda old: damaged_generation({"max_new_tokens": 0}), True),
    "temperature": (
        "generation_config.json",
        lambda old: damaged_generation({"do_sample": True, "temperature": "hot"}),
        True,
    ),
    "beams": ("generation_config.json", lambda old: damaged_generation({"num_beams": 1.5}), True),
    "unsupported": ("generation_config.json", lambda old: damaged_generation({"guidance_scale": 3.0}), True),
    "stop": ("generation_config.json", lambda old: damaged_generation({"stop_strings": [""]}), True),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_exports(export, python, tmp_path, name):
    file, damage, described = DAMAGE[name]
    folder = tmp_path / "export"
    shutil.copytree(export.folder, folder)
    change(folder, file, damage((folder / file).read_bytes()), described)
    line, code = python("--model_path", folder, "--tgt_length", "4", "x")
    found = cpp(export.programs, "--model_path", folder, "--tgt_length", "4", "x")
    assert code == 1 and found == (line, code)


@pytest.mark.parametrize("value", ["no", 1, None, []], ids=repr)
def test_gives_columns_that_is_neither_true_nor_false(export, tmp_path, value):
    manifest = shutil.copytree(export.folder, tmp_path / "export") / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"gives_columns": value}))
    line, code = cpp(export.programs, "--model_path", tmp_path / "export", "x")
    why = f"gives_columns is {json.dumps(value)}"
    assert (line, code) == (f"error: {manifest} is damaged ({why}): export the model again", 1)


def test_a_file_that_the_manifest_does_not_name(export, python, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(export.folder, folder)
    (folder / "added_tokens.json").write_text("{}")
    words = ["--model_path", folder, "x"]
    assert cpp(export.programs, *words) == python(*words)
    (folder / "added_tokens.json").unlink()
    (folder / "config.json").unlink()
    assert cpp(export.programs, *words) == python(*words)


def test_damaged_weights_are_noticed_before_anything_is_shown(export, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(export.folder, folder)
    weights = folder / "glm.onnx.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    run = subprocess.run([export.programs / "glm_infer", "--model_path", folder, "x"], capture_output=True)
    assert run.returncode == 1 and not run.stdout
    assert b"has the checksum" in run.stderr


def test_an_export_without_the_flat_tokenizer(export, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(export.folder, folder)
    manifest = folder / MANIFEST
    entries = json.loads(manifest.read_text())
    del entries["files"]["tokenizer.bin"]
    manifest.write_text(json.dumps(entries))
    line, code = cpp(export.programs, "--model_path", folder, "x")
    assert code == 1 and "names no tokenizer.bin: export the model again" in line


def test_a_graph_of_another_kind_of_model(export, glm_export, tmp_path):
    """With the tokenizer of GLM (2021), whose tokens have two positions."""
    folder = tmp_path / "export"
    shutil.copytree(export.folder, folder)
    for name in ("tokenizer.bin", "cog-pretrain.model"):
        change(folder, name, (glm_export.folder / name).read_bytes(), True)
    wanted = "the graph takes 1 positions a token, and the tokenizer's kind of model has 2: export the model again"
    assert cpp(export.programs, "--model_path", folder, "x") == (f"error: {wanted}", 1)


def test_a_prompt_without_room(python, tmp_path, programs):
    """The answer takes all positions but one, and rounds have a frame of several tokens."""
    folder = make_export("chatglm", tmp_path)
    last = json.loads((folder / MANIFEST).read_text())["max_position"]
    words = ["--model_path", folder, "--tgt_length", last, "x"]
    line, code = python(*words)
    assert (code, line.split(" has no room for text beside ")[0]) == (2, "error: a prompt of 1 tokens")
    assert cpp(programs, *words) == (line, code)


def test_a_library_that_is_missing(export, monkeypatch):
    monkeypatch.setenv("GLM_ONNXRUNTIME", "/nowhere/libonnxruntime.so")
    line, code = cpp(export.programs, "--model_path", export.folder, "x")
    assert code == 1 and "the library of ONNX Runtime cannot be loaded" in line
    monkeypatch.setenv("GLM_ONNXRUNTIME", "libm.so.6")
    line, code = cpp(export.programs, "--model_path", export.folder, "x")
    assert code == 1 and "is no library of ONNX Runtime" in line


def test_texts_that_are_not_utf8(export):
    line, code = cpp(export.programs, "--model_path", export.folder, "ok", b"\xff".decode("utf-8", "surrogateescape"))
    assert (line, code) == ("error: text 2 of 2 is not UTF-8: convert it first", 2)


def test_files_of_texts(export, tmp_path):
    sources, results = tmp_path / "in.txt", tmp_path / "out.txt"
    sources.write_text("\ufeff你好\n\u3000\n \u3000a b  \r\n", encoding="utf-8")
    run = export.infer("--input_file", sources, "--output_file", results, "--tgt_length", 6)
    texts = [line.removeprefix("  → ") for line in run.stdout.split("\n") if line.startswith("  → ")]
    assert "1 blank line(s) left out" in run.stderr and run.stdout.startswith("你好\n  → ")
    assert len(results.read_text(encoding="utf-8").splitlines()) >= len(texts) == 2
    assert export.infer("-", "--tgt_length", 6, stdin="你好\na b\n").stdout == run.stdout


@pytest.mark.parametrize("content", ['{"a": 1}\n{"b": "c"}\n', '\ufeff [{"a": 1}, {"b": 2}]', '{"a":\n 1}{"b": 2}'])
def test_rows_are_no_texts(export, tmp_path, content):
    rows = tmp_path / "rows.txt"
    rows.write_text(content, encoding="utf-8")
    line, code = cpp(export.programs, "--model_path", export.folder, "--input_file", rows)
    assert code == 2
    assert line == f"error: {rows} holds rows of JSON, which infer_generation.py reads: give one text per line"


@pytest.mark.parametrize("content", ['{"a": 1}\nplain\n', "[1, 2]\n", '{"a": 1\n', "{x}\n"])
def test_texts_that_look_like_rows(export, content):
    run = export.infer("-", "--tgt_length", 4, stdin=content)
    assert run.stdout.startswith(content.split("\n")[0] + "\n  → ")


@pytest.mark.parametrize("words", [["x"], ["--ids", "5 6"], ["--stream", "x"], ["--chat"], ["--help"]])
def test_results_that_cannot_be_printed(export, words):
    command = [export.programs / "glm_infer", "--model_path", export.folder, "--tgt_length", "4", *words]
    with Path("/dev/full").open("wb") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, input="你好\n".encode(), timeout=60)
    assert run.returncode == 1
    assert run.stderr.decode().splitlines()[-1].startswith("error: the results cannot be printed")


def test_a_model_that_holds_no_conversations(glm_export):
    assert "GLM (2021) model holds no conversations" in glm_export.infer("--chat", code=2, stdin="x\n").stderr
    run = glm_export.infer("--enable_thinking", "true", "x", code=2)
    assert "enable_thinking is for chat models whose template has it: leave it out" in run.stderr


def test_an_interrupt_at_a_question(export):
    command = [export.programs / "glm_infer", "--model_path", export.folder, "--chat", "--tgt_length", "4"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        run.stdin.write("你好\n".encode())
        run.stdin.flush()
        for line in run.stderr:
            if b"tokens/s" in line:  # the answer is there
                break
        time.sleep(0.2)  # until the next question is waited for
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=20) == 0
    finally:
        run.kill()
        run.communicate()


def test_a_turn_that_does_not_fit_ends_nothing(export):
    run = export.infer("--chat", "--src_length", 20, "--tgt_length", 4, stdin="字" * 200 + "\n你好\n")
    assert "raise src_length" in run.stderr and run.stdout.count("\n") >= 1


def test_help_needs_no_model(programs):
    run = subprocess.run([programs / "glm_infer", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("usage: glm_infer")


def test_a_program_embeds_the_library(export):
    """The example of docs/cpp.md, in C, over the shared library."""
    generator = export.generator(lengths=(None, 64))
    wanted = "".join(generator.stream("你好", generator.processor.generation_config()))
    run = subprocess.run([export.programs / "embed", export.folder, "你好"], capture_output=True, timeout=60)
    assert (run.returncode, run.stdout.decode()) == (0, wanted + "\n"), run.stderr
    run = subprocess.run([export.programs / "embed", "/nowhere", "x"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and "/nowhere is not a directory" in run.stderr

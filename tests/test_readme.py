"""The READMEs' commands are valid, the same in both languages, those of the seed, and each is run by a test."""

import ast
import re
import shlex
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "scripts"))
from seed_commands import COMMANDS as SEED  # noqa: E402

READMES = ["README.md", "README_zh.md"]
# A pattern of a command → the test that runs it, on a small model and with few steps.
SEED_TEST, FINETUNE_TEST, PREDICT_TEST, INFER_TEST = (
    f"tests/scripts/test_{name}.py" for name in ("seed_commands", "finetune_scripts", "predict_script", "infer_script")
)
BACKENDS_TEST, CHAT_TEST = (f"tests/scripts/test_{name}.py" for name in ("infer_backends", "chat_script"))
DISTRIBUTED_TEST = "tests/scripts/test_seed_distributed.py"
CONFIG_TEST = "tests/scripts/test_configs.py"
RUN_BY = {
    r"distributed\.launch .*finetune_instruction_generation\.py configs/": f"{CONFIG_TEST}::test_on_two_devices",
    r"distributed\.launch .*predict_generation\.py configs/": "tests/matrix/test_matrix.py::test_tensor_parallel",
    r"finetune_instruction_generation\.py configs/": f"{CONFIG_TEST}::test_fine_tuning_and_evaluation",
    r"predict_generation\.py .*--(chat|predict_data)": f"{CONFIG_TEST}::test_prediction",
    r"convert_checkpoint\.py": "tests/scripts/test_convert_script.py::test_both_ways",
    r"distributed\.launch .*finetune_generation\.py": f"{DISTRIBUTED_TEST}::test_fine_tuning_on_two_devices",
    r"distributed\.launch .*predict_generation\.py": f"{DISTRIBUTED_TEST}::test_merging_on_two_devices",
    r"-m glm\.memory": "tests/distributed/test_distributed_docs.py::test_the_memory_command_runs",
    r"finetune_generation\.py .*--r 8": f"{SEED_TEST}::test_lora_fine_tuning",
    r"finetune_generation\.py .*--do_eval": f"{SEED_TEST}::test_full_fine_tuning",
    r"finetune_generation\.py \S+\.(json|yaml)": f"{FINETUNE_TEST}::test_one_file_as_the_only_argument",
    r"finetune_instruction_generation\.py": f"{SEED_TEST}::test_belle_fine_tuning",
    r"export_generation_model\.py .*--format onnx": "tests/scripts/test_export_script.py::test_a_preset",
    r"export_generation_model\.py .*--lora_path": f"{SEED_TEST}::test_export_and_predict_with_lora",
    r"export_generation_model\.py": f"{SEED_TEST}::test_export_infer_and_predict",
    r"infer_generation\.py .*--stream": f"{BACKENDS_TEST}::test_a_stop_string_ends_a_text",
    r"infer_generation\.py .*--chat": f"{CHAT_TEST}::test_a_graph_converses",
    r"infer_generation\.py .*--output_file": f"{INFER_TEST}::test_the_graph_generates_what_the_model_generates",
    r"infer_generation\.py": f"{SEED_TEST}::test_export_infer_and_predict",
    r"predict_generation\.py .*--lora_path": f"{SEED_TEST}::test_export_and_predict_with_lora",
    r"predict_generation\.py .*--stream": f"{PREDICT_TEST}::test_streaming_gives_the_same_texts",
    r"predict_generation\.py .*\S+-chinese ": f"{PREDICT_TEST}::test_texts_from_everywhere_give_the_same",
    r"predict_generation\.py": f"{SEED_TEST}::test_export_infer_and_predict",
    r"-m glm\.device": "tests/test_readme.py::test_the_device_command",
}
# Where a README's command differs from the seed's: instructions in one process, a directory of its own for each run.
DIFFERENCES = {
    r'python -m paddle.distributed.launch --gpus "?[0-9,]+"? (?=finetune_instruction)': "python ",
    r"(finetune_instruction.*) --tensor_parallel_degree 8": r"\1",
    r"(?<=--lora_path )./checkpoints/glm-large-chinese": "./checkpoints/glm-large-chinese-lora",
    r"(?<=--output_dir )./checkpoints/glm-large-chinese(?=.* --lora True)": "./checkpoints/glm-large-chinese-lora",
    r"(?<=bellegroup)(.*--output_dir ./checkpoints/glm-large-chinese)": r"\1-belle",
}


def commands(readme: str) -> list[str]:
    """Every line of the sh blocks, with continued lines joined."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


ALL = commands(READMES[0])
PYTHON = [line for line in ALL if "python " in line]
SCRIPTS = [line for line in PYTHON if ".py" in line]


def test_both_languages_have_the_same_commands():
    assert len(ALL) > 15
    assert commands(READMES[1]) == ALL


@pytest.mark.parametrize("readme", READMES)
def test_both_languages_name_flags_and_files_alike(readme):
    """What stands between backticks is code, and code needs no translation."""

    def codes(name: str) -> set[str]:
        words = re.findall(r"`([^`\n]+)`", (ROOT / name).read_text(encoding="utf-8"))
        return {word for word in words if word.startswith("--") and " " not in word}

    assert codes(readme) == codes(READMES[0])
    assert len(codes(readme)) > 30


@pytest.mark.parametrize("readme", READMES)
def test_flags_exist(readme):
    """Every flag that the text names belongs to a script, to the launcher or to glm.memory."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    known = {option for script in SCRIPT_FLAGS for option in flags_of(script)} | {"--gpus", "--devices"}
    known |= set(re.findall(r'"(--\w+)"', (ROOT / "glm" / "memory" / "__main__.py").read_text(encoding="utf-8")))
    assert set(re.findall(r"(?<![\w-])--\w+", text)) - known == set()


@pytest.mark.parametrize("readme", READMES)
def test_make_targets_and_files_exist(readme):
    text = (ROOT / readme).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)`", text)) | {line.split()[1] for line in ALL if line.startswith("make ")}
    assert targets >= {"quickstart", "test", "bench"}
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    table = re.search(r"^\| `finetune_generation\.py`.*?\n\n", text, flags=re.DOTALL | re.MULTILINE)[0].strip()
    places = [word for line in table.splitlines() for word in re.findall(r"`([\w/.]+(?:\.py|/))`", line.split("|")[1])]
    missing = [name for name in links + places if not (ROOT / name).exists() and not (ROOT / "glm" / name).exists()]
    assert missing == []
    assert len(places) > 30


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    public = re.search(r"^\.PHONY: help (.*)", makefile, flags=re.MULTILINE)[1].split()
    assert sorted(re.findall(r"^# make ([a-z-]+)  ", makefile, flags=re.MULTILINE)) == sorted(public)


@pytest.mark.parametrize("line", SCRIPTS)
def test_the_scripts_parser_takes_the_command(line, monkeypatch):
    words = shlex.split(line.split("|")[-1])
    start = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script, arguments = words[start], words[start + 1 :]
    if arguments[0].endswith((".json", ".yaml")):
        return  # its flags are in the file: test_the_file_of_arguments
    if script.startswith("finetune"):
        assert training_parser(script).parse_known_args(arguments)[1] == []
    else:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        import_module(script.removesuffix(".py")).parse()


@pytest.mark.parametrize("readme", READMES)
def test_the_python_block(readme, monkeypatch, capsys):
    """As it stands there, on tiny presets."""
    block = re.search(r"^```python\n(.*?)^```", (ROOT / readme).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)[1]
    monkeypatch.chdir(ROOT)
    names = {}
    exec(block, names)
    assert names["generate"]("你好") == [{"generated_text": capsys.readouterr().out.removesuffix("\n")}]
    assert [message["role"] for message in names["history"]] == ["user", "assistant"] * 2


@pytest.mark.parametrize("readme", READMES)
def test_the_file_of_arguments(readme, tmp_path):
    from glm.training import arguments

    block = re.search(r"^```yaml\n(.*?)^```", (ROOT / readme).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "arguments.yaml").write_text(block, encoding="utf-8")
    classes = [arguments.DataArguments, arguments.ModelArguments, arguments.GLMTrainingArguments]
    _, model, training = arguments.parse_arguments(classes, "", [str(tmp_path / "arguments.yaml")])
    assert (model.model_name_or_path, model.lora) == ("glm-tiny-chinese", False)
    assert (training.do_train, training.learning_rate) == (True, 2e-3)


@pytest.mark.parametrize("line", PYTHON)
def test_a_test_runs_the_command(line):
    path, name = next(test for pattern, test in RUN_BY.items() if re.search(pattern, line)).split("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_table_is_used():
    used = [next(pattern for pattern in RUN_BY if re.search(pattern, line)) for line in PYTHON]
    assert set(used) == set(RUN_BY)


@pytest.mark.parametrize("name", SEED)
def test_the_seeds_commands_are_shown(name):
    line = " ".join(SEED[name].split())
    for pattern, replacement in DIFFERENCES.items():
        line = re.sub(pattern, replacement, line)
    assert [set(pairs(line)) == set(pairs(shown)) for shown in SCRIPTS].count(True) == 1, line


def pairs(line: str) -> list[tuple[str, ...]]:
    """A command as its script and its flags with their values, whatever their order."""
    head, *flags = " ".join(shlex.split(line)).split(" --")
    return [(head,), *(tuple(flag.split()) for flag in flags)]


def test_the_device_command(run_python):
    result = run_python("-m", "glm.device")
    assert result.returncode == 0
    assert result.stdout.startswith("device: ")
    assert "MKL_NUM_THREADS: " in result.stdout


@pytest.fixture
def run_python():
    import subprocess

    def run(*arguments: str):
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)

    return run


SCRIPT_FLAGS = sorted(path.name for path in ROOT.glob("*_*.py"))


@cache
def flags_of(script: str) -> frozenset[str]:
    if script.startswith("finetune"):
        return frozenset(training_parser(script)._option_string_actions)
    text = (ROOT / script).read_text(encoding="utf-8") + (ROOT / "glm" / "cli" / "prompts.py").read_text(
        encoding="utf-8"
    )
    return frozenset(re.findall(r'"(--\w+)"', text + (ROOT / "glm" / "cli" / "script.py").read_text(encoding="utf-8")))


@cache
def training_parser(script: str):
    """The parser of a fine-tuning script, before it looks at the machine (a CPU refuses --fp16)."""
    from glm.training import arguments

    data = arguments.InstructionDataArguments if "instruction" in script else arguments.DataArguments
    classes = [data, arguments.DecodeArguments, arguments.ModelArguments, arguments.GLMTrainingArguments]
    return arguments.ArgumentParser(classes, allow_abbrev=False)

"""The commands of READMEs and user guides are valid, alike in both languages, those of the seed, and run by tests."""

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
# A page and its Chinese twin.
GUIDES = (
    "finetuning", "chat", "inference", "python", "data", "files", "adapters", "generation", "runs", "errors",
    "conversion", "models", "devices", "distributed", "quantization", "indexed_data",
    "pretraining", "evaluation", "preference", "serving", "cpp",
)  # fmt: skip
PAGES = {"README.md": "README_zh.md", **{f"docs/{name}.md": f"docs/zh/{name}.md" for name in GUIDES}}
BOTH = [page for pair in PAGES.items() for page in pair]
EVERY = [*READMES, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
LONGEST_README = 190
# Flags of paddle.distributed.launch, and the other name of --r, which the launcher would take for its own.
LAUNCHER = {"--gpus", "--devices", "--master", "--nnodes", "--rank", "--lora_rank"}
# A pattern of a command → the test that runs it, on a small model and with few steps.
SEED_TEST, FINETUNE_TEST, PREDICT_TEST, INFER_TEST = (
    f"tests/scripts/test_{name}.py" for name in ("seed_commands", "finetune_scripts", "predict_script", "infer_script")
)
BACKENDS_TEST, CHAT_TEST = (f"tests/scripts/test_{name}.py" for name in ("infer_backends", "chat_script"))
GUIDED_TEST = "tests/scripts/test_guided_script.py"
DISTRIBUTED_TEST = "tests/scripts/test_seed_distributed.py"
CONFIG_TEST = "tests/scripts/test_configs.py"
PRETRAIN_TEST = "tests/scripts/test_pretrain_guide.py"
EVALUATE_TEST = "tests/scripts/test_evaluate_guide.py"
PREFERENCE_TEST = "tests/scripts/test_preference_script.py"
RUN_BY = {
    r"distributed\.launch .*evaluate_generation\.py": "tests/scripts/test_evaluate_ranks.py::test_through_the_launcher",
    r"evaluate_generation\.py|output/exam-export": f"{EVALUATE_TEST}::test_every_command_runs",
    r"-m glm\.evaluation\.harness": "tests/evaluation/harness/test_harness_lm.py::test_the_command",
    r"-m lm_eval": "tests/evaluation/harness/test_harness_served.py::test_the_command",
    r"distributed\.launch .*finetune_preference\.py": f"{PREFERENCE_TEST}::test_the_launched_command",
    r"finetune_preference\.py|output/(orpo|dpo)": f"{PREFERENCE_TEST}::test_every_command_runs",
    r"serve-env": "tests/scripts/test_serve_environment.py::test_an_export_is_served_without_paddle",
    r"serve_generation\.py --model_path output/tour": "tests/scripts/test_tour.py::test_the_export_is_served",
    r"serve_generation\.py .*--api_key_file": "tests/scripts/test_serve_script.py::test_with_keys_and_names",
    r"serve_generation\.py|checkpoints/serve/": "tests/scripts/test_serve_script.py::test_it_says_what_it_serves",
    r"finetune_\S+ .*--packing True": "tests/scripts/test_packing_script.py::test_the_pages_commands",
    r"printf .*--chat": "tests/cli/test_questions.py::test_questions_of_a_pipe",
    r"output/tour|glm-4-9b-0414-tiny --chat": "tests/scripts/test_tour.py::test_every_command_runs",
    r"distributed\.launch .*finetune_instruction_generation\.py configs/": f"{CONFIG_TEST}::test_on_two_devices",
    r"distributed\.launch .*predict_generation\.py configs/": "tests/matrix/test_matrix.py::test_tensor_parallel",
    r"finetune_instruction_generation\.py configs/": f"{CONFIG_TEST}::test_training_and_evaluation",
    r"predict_generation\.py .*--(chat|predict_data)": f"{CONFIG_TEST}::test_prediction",
    r"distributed\.launch .*finetune_generation\.py": f"{DISTRIBUTED_TEST}::test_fine_tuning_on_two_devices",
    r"distributed\.launch .*predict_generation\.py": f"{DISTRIBUTED_TEST}::test_merging_on_two_devices",
    r"distributed\.launch .*pretrain_generation\.py configs/": f"{CONFIG_TEST}::test_on_two_devices",
    r"pretrain_generation\.py|data/pretrain |output/(pretrained|export) ": f"{PRETRAIN_TEST}::test_every_command_runs",
    r"preprocess_data\.py": "tests/scripts/test_preprocess_script.py::test_every_command_of_the_guide_runs",
    r"convert_checkpoint\.py": "tests/scripts/test_megatron_script.py::test_the_documented_conversions",
    r"-m glm\.memory": "tests/distributed/test_distributed_docs.py::test_the_memory_command_runs",
    r"finetune_generation\.py .*--r 8": f"{SEED_TEST}::test_lora_fine_tuning",
    r"finetune_generation\.py .*--do_eval": f"{SEED_TEST}::test_full_fine_tuning",
    r"finetune_generation\.py \S+\.(json|yaml)": f"{FINETUNE_TEST}::test_one_file_as_the_only_argument",
    r"finetune_instruction_generation\.py": f"{SEED_TEST}::test_belle_fine_tuning",
    r"export_generation_model\.py .*--format onnx": "tests/scripts/test_export_script.py::test_a_preset",
    r"export_generation_model\.py .*--lora_path": f"{SEED_TEST}::test_export_and_predict_with_lora",
    r"export_generation_model\.py": f"{SEED_TEST}::test_export_infer_and_predict",
    r"infer_generation\.py .*--prompt_lookup": f"{BACKENDS_TEST}::test_prompt_lookup_writes_the_same_texts",
    r"infer_generation\.py .*--(json_schema|response_format)": f"{GUIDED_TEST}::test_every_text_is_json",
    r"infer_generation\.py .*--stream": f"{BACKENDS_TEST}::test_a_stop_string_ends_a_text",
    r"infer_generation\.py .*--chat": f"{CHAT_TEST}::test_a_graph_converses",
    r"infer_generation\.py .*--output_file": f"{INFER_TEST}::test_the_graph_generates_what_the_model_generates",
    r"infer_generation\.py": f"{SEED_TEST}::test_export_infer_and_predict",
    r"predict_generation\.py .*--lora_path": f"{SEED_TEST}::test_export_and_predict_with_lora",
    r"predict_generation\.py .*--stream": f"{PREDICT_TEST}::test_streaming_gives_the_same_texts",
    r"predict_generation\.py .*\S+-chinese ": f"{PREDICT_TEST}::test_texts_from_everywhere_give_the_same",
    r"predict_generation\.py": f"{SEED_TEST}::test_export_infer_and_predict",
}
# Where a command differs from the seed's: instructions in one process, a directory of its own for each run.
DIFFERENCES = {
    r'python -m paddle.distributed.launch --gpus "?[0-9,]+"? (?=finetune_instruction)': "python ",
    r"(finetune_instruction.*) --tensor_parallel_degree 8": r"\1",
    r"(?<=--lora_path )./checkpoints/glm-large-chinese": "./checkpoints/glm-large-chinese-lora",
    r"(?<=--output_dir )./checkpoints/glm-large-chinese(?=.* --lora True)": "./checkpoints/glm-large-chinese-lora",
    r"(?<=bellegroup)(.*--output_dir ./checkpoints/glm-large-chinese)": r"\1-belle",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """Every line of the sh blocks, with continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


# Of docs/distributed.md, tests/distributed/test_distributed_docs.py runs and parses the commands.
ALL = [line for page in PAGES if page != "docs/distributed.md" for line in commands(page)]
PYTHON = [line for line in ALL if "python " in line]
SCRIPTS = [line for line in PYTHON if ".py" in line]


def blocks(kind: str, pages=PAGES) -> list[tuple[str, str]]:
    """(page, block) of a language; each block once."""
    fence = re.compile(rf"^```{kind}\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
    first = {block: page for page in reversed(pages) for block in fence.findall(text_of(page))}
    return [(page, block) for block, page in first.items()]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_commands(page):
    assert commands(PAGES[page]) == commands(page)


def test_the_guides_have_the_commands():
    assert len(ALL) > 30


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_blocks(page):
    for kind in ("python", "yaml", "json", "bash"):
        assert [block for _, block in blocks(kind, [PAGES[page]])] == [block for _, block in blocks(kind, [page])]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_name_flags_and_files_alike(page):
    """What stands between backticks is code, and code needs no translation."""

    def codes(name: str) -> set[str]:
        words = re.findall(r"`([^`\n]+)`", text_of(name))
        return {word for word in words if word.startswith("--") and " " not in word}

    assert codes(PAGES[page]) == codes(page)


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_parts(page):
    """Headings, and rows of tables."""

    def parts(name: str) -> list[str]:
        text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.DOTALL | re.MULTILINE)
        return [line.split(" ")[0][:2] for line in text.splitlines() if line.startswith(("#", "|"))]

    assert parts(PAGES[page]) == parts(page)


@pytest.mark.parametrize("page", BOTH)
def test_flags_exist(page):
    """Every flag that the text names belongs to a script, to the launcher, to pip, to glm.memory or to lm_eval."""
    others = {"--help_all", "--model_args", "--no-deps"}
    known = {option for script in SCRIPT_FLAGS for option in flags_of(script)} | LAUNCHER | others
    for command in (
        "glm/memory/__main__.py",
        "glm/evaluation/harness/__main__.py",
        "glm/distributed/rank_table.py",
        "benchmarks/__main__.py",
        "benchmarks/big_checkpoint.py",
        "benchmarks/big_latents.py",
        "benchmarks/quality.py",
        "benchmarks/serving_client.py",
    ):
        known |= set(re.findall(r'"(--[\w-]+)"', text_of(command)))
    known |= set(re.findall(r"(?<![\w-])--[\w-]+", text_of("cpp/src/cli/arguments.cpp")))
    assert set(re.findall(r"(?<![\w-])--\w[\w-]*", text_of(page))) - known == set()


@pytest.mark.parametrize("page", EVERY)
def test_make_targets_and_files_exist(page):
    text = text_of(page)
    targets = set(re.findall(r"`make ([a-z-]+)`", text))
    targets |= {line.split()[1] for line in commands(page) if line.startswith("make ")}
    assert targets <= set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    assert missing(page, text) == []


def missing(page: str, text: str) -> list[str]:
    """What a page links or names between backticks, and is not there: links, paths, and modules by their name alone."""
    links = [
        name
        for name in re.findall(r"\]\((?!http)([^)#\s]+)\)", text)
        if not (ROOT / page).parent.joinpath(name).exists()
    ]
    paths = [
        name
        for name in re.findall(r"`((?:glm|tests|docs|configs|tools)/[\w/.-]*)`", text)
        if not (ROOT / name).exists()
    ]
    modules = [name for name in re.findall(r"`(\w+\.py)`", text) if name not in MODULES]
    return links + paths + modules


# By their names alone; those of other projects that the pages mention.
MODULES = {path.name for folder in (ROOT, *ROOT.glob("glm/**")) for path in folder.glob("*.py")} | {
    "hccl_tools.py", "merge_hccl.py", "modeling_chatglm.py", "configuration_chatglm.py", "convert_weight.py",
}  # fmt: skip


def test_what_is_missing_is_found():
    text = "[a](gone.md) [b](../LICENSE) `glm/model/gone.py` `glm/errors.py` `gone.py` `layers.py`"
    assert missing("docs/x.md", text) == ["gone.md", "glm/model/gone.py", "gone.py"]


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_is_a_door(readme):
    """Short, and every page can be reached from it."""
    text = text_of(readme)
    assert len(text.splitlines()) <= LONGEST_README
    folder = "docs" if readme == "README.md" else "docs/zh"
    assert all(f"]({folder}/{name}.md)" in text for name in GUIDES)
    assert all(f"](docs/{path.name})" in text for path in (ROOT / "docs").glob("*.md") if path.stem not in GUIDES)
    assert {path.stem for path in (ROOT / "docs/zh").iterdir()} == set(GUIDES)
    assert "](LICENSE)" in text


def test_make_help_lists_every_target():
    makefile = text_of("Makefile")
    public = re.search(r"^\.PHONY: help (.*)", makefile, flags=re.MULTILINE)[1].split()
    assert sorted(re.findall(r"^# make ([a-z-]+)  ", makefile, flags=re.MULTILINE)) == sorted(public)


@pytest.mark.parametrize("line", SCRIPTS)
def test_the_scripts_parser_takes_the_command(line, monkeypatch):
    words = shlex.split(line.split("|")[-1])
    start = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script, arguments = words[start], words[start + 1 :]
    if arguments[0].endswith((".json", ".yaml")):
        return  # its flags are in the file: test_the_file_of_arguments
    if script.startswith(TRAINING):
        assert training_parser(script).parse_known_args(arguments)[1] == []
    else:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        import_module(script.removesuffix(".py")).parse()


def test_the_python_block(monkeypatch, capsys):
    """As it stands there, on tiny presets; that of docs/python.md runs in tests/api/test_public_names.py, and that of
    docs/serving.md in tests/scripts/test_serve_script.py.
    """
    monkeypatch.chdir(ROOT)
    names = {}
    others = ("docs/python.md", "docs/serving.md")
    [block] = [block for page, block in blocks("python") if page not in others]
    exec(block, names)
    assert names["generate"]("你好") == [{"generated_text": capsys.readouterr().out.removesuffix("\n")}]
    assert [message["role"] for message in names["history"]] == ["user", "assistant"] * 2


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_the_file_of_arguments(page, block, tmp_path):
    from glm.training import arguments

    (tmp_path / "arguments.yaml").write_text(block, encoding="utf-8")
    classes = [arguments.DataArguments, arguments.ModelArguments, arguments.GLMTrainingArguments]
    _, model, training = arguments.parse_arguments(classes, "", [str(tmp_path / "arguments.yaml")])
    assert (model.model_name_or_path, model.lora) == ("glm-tiny-chinese", False)
    assert (training.do_train, training.learning_rate) == (True, 2e-3)


def test_there_are_such_blocks():
    assert [len(blocks(kind)) for kind in ("python", "yaml", "json")] == [3, 1, 13]


@pytest.mark.parametrize("line", PYTHON)
def test_a_test_runs_the_command(line):
    path, name = next(test for pattern, test in RUN_BY.items() if re.search(pattern, line)).split("::")
    tree = ast.parse(text_of(path))
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


TRAINING = ("finetune", "pretrain")
SCRIPT_FLAGS = sorted(path.name for path in ROOT.glob("*_*.py"))


@cache
def flags_of(script: str) -> frozenset[str]:
    if script.startswith(TRAINING):
        return frozenset(training_parser(script)._option_string_actions)
    files = (script, "glm/cli/prompts.py", "glm/cli/multiple_choice.py", "glm/cli/script.py")
    text = "".join(map(text_of, files))
    return frozenset(re.findall(r'"(--[\w-]+)"', text))


@cache
def training_parser(script: str):
    """The parser of a training script, before it looks at the machine (a CPU refuses --fp16)."""
    from glm.training import arguments, preference_flags, pretrain_flags

    data = arguments.InstructionDataArguments if "instruction" in script else arguments.DataArguments
    classes = [data, arguments.DecodeArguments, arguments.ModelArguments]
    if script.startswith("pretrain"):
        names = ("PretrainDataArguments", "PretrainModelArguments", "ScheduleArguments")
        classes = [getattr(pretrain_flags, name) for name in names]
    if "preference" in script:
        names = ("PreferenceDataArguments", "PreferenceArguments", "PreferenceModelArguments")
        classes = [getattr(preference_flags, name) for name in names]
    return arguments.ArgumentParser([*classes, arguments.GLMTrainingArguments], allow_abbrev=False)

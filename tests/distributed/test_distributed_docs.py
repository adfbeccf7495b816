"""docs/distributed.md: its tables are what glm.memory computes, and its commands are taken by their parsers."""

import re
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from glm import GLMConfig
from glm.distributed.rank_table import PORT
from glm.errors import GLMError
from glm.memory import HEADROOM, Run, estimate, fits
from glm.memory import __main__ as memory_command
from glm.memory.__main__ import DEGREES

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))
import predict_generation  # noqa: E402

TEXT = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
MODELS = ("glm-large-chinese", "glm-10b-chinese", "chatglm-6b", "glm-4-9b-chat", "glm-4-32b-0414")
HALF = {"dtype": "bfloat16", "opt_level": "O2", "batch_size": 2, "src_length": 608, "tgt_length": 160, "num_beams": 5}
JOBS = {
    "full training": Run(train="full", recompute=True, **HALF),
    "LoRA training": Run(train="lora", recompute=True, **HALF),
    "inference": Run(train="none", **HALF),
}
DEVICES = (16, 32, 64, 80)  # GiB
GIB = 2**30


def table(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without its rule."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = re.search(r"^\|.*?(?=\n\n|\Z)", section, flags=re.DOTALL | re.MULTILINE)[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


def estimates(model: str, run: Run) -> dict:
    """Of the degrees that divide the model."""
    found = {}
    for degree in DEGREES:
        with suppress(GLMError):
            found[degree] = estimate(GLMConfig.preset(model, tensor_parallel_degree=degree), run)
    return found


def smallest(memories: dict, device: int) -> str:
    """The lowest degree that fits."""
    return next((str(degree) for degree, memory in memories.items() if fits(memory, device)), "-")


def test_what_a_rank_needs():
    heading = ["model", "run", *(f"degree {degree}" for degree in DEGREES)]
    rows = [
        [model, job, *(f"{found[degree].peak / GIB:.1f}" if degree in found else "-" for degree in DEGREES)]
        for model in MODELS
        for job, run in JOBS.items()
        if (found := estimates(model, run))
    ]
    assert table("What a rank needs") == [heading, *rows]


@pytest.mark.long
def test_which_degree_fits():
    heading = ["model", "run", *(f"{device} GB" for device in DEVICES)]
    rows = [
        [model, job, *(smallest(estimates(model, run), device) for device in DEVICES)]
        for model in MODELS
        for job, run in JOBS.items()
    ]
    assert table("Which degree fits") == [heading, *rows]


LONG = {"train": "full", "dtype": "bfloat16", "opt_level": "O2", "recompute": True, "batch_size": 1}
LAYOUTS = [(degree, stage) for degree in (1, 2) for stage in ("stage1", "stage2")]


def long_row_peaks(model: str, tokens: int, devices: int, divides: bool = False) -> dict:
    """Of a training step, by tensor-parallel degree and stage of sharding over the rest of the devices."""
    found = {}
    for degree, stage in LAYOUTS:
        run = Run(**LONG, max_length=tokens, sharding=stage, sharding_degree=devices // degree)
        parallel = {"tensor_parallel_degree": degree, "sequence_parallel": divides and degree > 1}
        found[degree, stage] = estimate(GLMConfig.preset(model, **parallel), run).training
    return found


def long_row_cells(model: str, tokens: int, devices: int) -> list[str]:
    peaks = long_row_peaks(model, tokens, devices)
    cells = [model, f"{tokens:,}", str(devices), *(f"{peak / GIB:.1f}" for peak in peaks.values())]
    for device in (32, 64):
        usable = (1 - HEADROOM) * device * GIB
        cells.append(next((f"{degree}, {stage}" for (degree, stage), peak in peaks.items() if peak <= usable), "-"))
    return cells


def test_what_long_rows_need():
    heading = [
        "model",
        "tokens",
        "devices",
        *(f"degree {degree}, {stage}" for degree, stage in LAYOUTS),
        "32 GB",
        "64 GB",
    ]
    rows = [
        long_row_cells(model, tokens, devices)
        for model in ("glm-4-9b-chat", "glm-4-32b-0414")
        for tokens in (4096, 8192, 32768, 131072)
        for devices in (8, 16)
    ]
    assert table("Long rows") == [heading, *rows]


def test_rows_of_32k_on_eight_devices_of_64_gib():
    """GLM-4-9B, all weights: what the seed's tutorial trains with tensor parallelism of 2."""
    peaks = long_row_peaks("glm-4-9b-chat", 32768, 8)
    assert peaks[2, "stage1"] <= 56 * GIB
    # Without chunks, 32 query heads' scores of all tokens alone were 128 GiB.
    assert peaks[2, "stage1"] - long_row_peaks("glm-4-9b-chat", 16384, 8)[2, "stage1"] < 8 * GIB


def test_what_sequence_parallelism_saves_of_long_rows():
    """A line of the section: GiB less by model and tokens, and a layout that fits only with it."""
    saved = {}
    for model in ("glm-4-9b-chat", "glm-4-32b-0414"):
        for tokens in (32768, 131072):
            whole, divided = (long_row_peaks(model, tokens, 8, divides)[2, "stage1"] for divides in (False, True))
            saved[model, tokens] = f"{(whole - divided) / GIB:.1f}"
    fits_with = long_row_peaks("glm-4-9b-chat", 131072, 16, divides=True)[2, "stage2"]
    assert fits_with <= (1 - HEADROOM) * 64 * GIB < min(long_row_peaks("glm-4-9b-chat", 131072, 16).values())
    chinese = (ROOT / "docs" / "zh" / "distributed.md").read_text("utf-8")
    for text in (TEXT, chinese):
        line = re.search(r"^- [^-]*`--sequence_parallel`.*131,072.*\n  .*", text, re.MULTILINE)[0]
        assert re.findall(r"\d+\.\d", line) == [*saved.values(), f"{fits_with / GIB:.1f}"]


# Devices of full training under sequence parallelism, and the model.
DIVIDED = ((8, "glm-10b-chinese"), (4, "chatglm-6b"), (2, "glm-4-9b-chat"), (2, "glm-4-32b-0414"))


def beside_states(model: str, degree: int, **changes) -> list[str]:
    """GiB of activations and of a step's workspace, without and with sequence parallelism."""
    run = replace(JOBS["full training"], **changes)
    configs = (GLMConfig.preset(model, tensor_parallel_degree=degree, sequence_parallel=s) for s in (False, True))
    memories = [estimate(config, run) for config in configs]
    return [f"{(memory.training - memory.standing) / GIB:.1f}" for memory in memories]


def test_what_sequence_parallelism_saves():
    rows = [
        [f"{degree}, {model}", *beside_states(model, degree, recompute=False), *beside_states(model, degree)]
        for degree, model in DIVIDED
    ]
    assert table("Sequence parallelism")[1:] == rows
    chinese = (ROOT / "docs" / "zh" / "distributed.md").read_text("utf-8")
    assert all(f"| {' | '.join(row)} |" in chinese for row in rows)


def test_what_expert_parallelism_saves():
    """Of a training step: with parts of the experts alone, ranks do not generate."""
    jobs, rows = JOBS | {"LoRA of experts": replace(JOBS["LoRA training"], lora_targets="experts")}, []
    for model in ("glm-4.7-flash", "glm-4.5-air"):
        for job in ("full training", "LoRA training", "LoRA of experts"):
            configs = (GLMConfig.preset(model, expert_parallel_degree=degree) for degree in (1, 2, 4, 8))
            rows.append([model, job, *(f"{estimate(config, jobs[job]).training / GIB:.1f}" for config in configs)])
    assert table("Expert parallelism")[1:] == rows


def test_two_key_value_heads_limit_the_degree():
    """Of training; prediction gives each rank a copy."""
    assert list(estimates("glm-4-9b-chat", JOBS["full training"])) == [1, 2]
    assert list(estimates("glm-4-9b-chat", JOBS["inference"])) == [1, 2, 4, 8]
    with pytest.raises(GLMError, match=r"tensor_parallel_degree 4 .* 2 key/value heads.* train with 2 at most"):
        GLMConfig.preset("glm-4-9b-chat", tensor_parallel_degree=4).require_trainable()


def test_the_settings_of_the_tables_are_named():
    for words in ("bfloat16", "O2", "--recompute", "2 sequences", "608 + 160 tokens", "5 beams", f"{HEADROOM:.0%}"):
        assert words in TEXT, words


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def test_there_are_commands():
    assert {line.split()[2] for line in commands()} >= {
        "glm.memory",
        "glm.distributed.rank_table",
        "paddle.distributed.launch",
    }


@pytest.mark.parametrize("line", [line for line in commands() if "glm.memory" in line])
def test_the_memory_command_runs(line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", shlex.split(line)[2:])
    memory_command.main()
    assert "peak of" in capsys.readouterr().out


def test_the_chinese_page_has_the_same_numbers():
    def numbers(text: str) -> list[list[str]]:
        rows = re.findall(r"^\| (?:glm-|chatglm-).*", text, flags=re.MULTILINE)
        return [re.findall(r"[\d.]+|-(?= \|)", row) for row in rows]

    found = numbers((ROOT / "docs" / "zh" / "distributed.md").read_text("utf-8"))
    assert len(found) == 52 and found == numbers(TEXT)


def test_the_guides_memory_command_gives_the_tables_number(monkeypatch, capsys):
    text = (ROOT / "docs" / "finetuning.md").read_text("utf-8")
    line = re.search(r"^python -m glm\.memory .*", text, flags=re.MULTILINE)[0]
    monkeypatch.setattr(sys, "argv", shlex.split(line)[2:])
    memory_command.main()
    title, *rows = capsys.readouterr().out.splitlines()
    assert title == "glm-10b-chinese in bfloat16, tensor-parallel degree 4, a rank"
    shown = next(float(row.split("│")[2].split()[0]) for row in rows if "peak of generation" in row)
    wanted = next(row for row in table("What a rank needs") if row[:2] == ["glm-10b-chinese", "inference"])[4]
    assert f"{shown:.1f}" == wanted


@pytest.mark.parametrize("line", [line for line in commands() if "distributed.launch" in line])
def test_the_launcher_and_the_script_take_the_command(line, monkeypatch):
    from paddle.distributed.launch.context.args_envs import parse_args

    from glm.training import arguments

    monkeypatch.setattr(sys, "argv", shlex.split(line)[2:])
    known, unknown = parse_args()
    assert unknown == []
    if known.nnodes != "1":
        assert (known.nnodes, known.rank in (0, 1), known.master.split(":")[1]) == ("2", True, str(PORT))
    assert (ROOT / known.training_script).is_file()
    if known.training_script.startswith("predict"):
        monkeypatch.setattr(sys, "argv", [known.training_script, *known.training_script_args])
        predict_generation.parse()
        return
    classes = [arguments.DataArguments, arguments.DecodeArguments, arguments.ModelArguments]
    parser = arguments.ArgumentParser([*classes, arguments.GLMTrainingArguments], allow_abbrev=False)
    assert parser.parse_known_args(known.training_script_args)[1] == []


def test_links_and_files_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []

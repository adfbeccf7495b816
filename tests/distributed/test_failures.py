"""What goes wrong in a launch of several processes ends it soon, with a line that says what and what to do."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from training_runs import ROOT, command

from tests.distributed.launched_runs import DISTRIBUTED, SCRIPTS, STEPS, Launcher, free_port, launched, two_nodes
from tests.npu_simulator.launching import environment, needs_compiler

pytestmark = needs_compiler


def error_lines(log: str) -> list[str]:
    """The lines that a rank wrote for people; a progress bar may stand before one."""
    return re.findall(r"^error: (.*)$", log, re.MULTILINE)


def kill(launcher: Launcher, rank: int) -> str:
    """SIGKILL to a rank; returns how the others call it."""
    ranks = launcher.ranks()
    os.kill(ranks[rank], signal.SIGKILL)
    return f"process {ranks[rank]}, log {launcher.logs}/workerlog.{sorted(ranks).index(rank)}) has ended"


def kill_node_while_saving(nodes: list[Launcher], output: Path) -> str:
    """SIGKILL to launcher and rank of the first node between the beginning and the end of the first checkpoint."""

    def caught() -> str | None:
        for staging in output.glob(".checkpoint-*.tmp-*"):
            processes = [process for node in nodes for process in node.ranks().values()]
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            assert staging.is_dir() and not list(output.glob("checkpoint-*")), "the checkpoint was finished before"
            name = kill(nodes[0], 0)
            nodes[0].process.kill()
            os.kill(processes[1], signal.SIGCONT)
            return name
        return None

    return nodes[0].until(caught, 0.0005)


@pytest.mark.slow
def test_killed_while_saving_and_while_training(model, data, unbroken, tmp_path):
    """Three runs by one command, on two nodes and on one, end as the one that was never killed."""
    output, finished = tmp_path / "run", unbroken[0]
    words = command(model, data, output, **STEPS, **DISTRIBUTED)[1:]
    with two_nodes([words, words], tmp_path / "first") as nodes:
        killed = kill_node_while_saving(nodes, output)
        assert nodes[1].wait(60) != 0
        assert set(error_lines(nodes[1].terminal)) == set(error_lines(nodes[1].log(0)))
        (line,) = error_lines(nodes[1].log(0))
    assert line.endswith(f"{killed}; no checkpoint was written yet: the same command starts anew")
    assert not list(output.glob("checkpoint-*"))
    assert list(output.glob(".checkpoint-3.tmp-*")), "the killed rank left no litter: nothing is tested"

    with launched(words, tmp_path / "second") as second:
        second.until(lambda: "step 5/" in second.log(0))
        killed = kill(second, 1)
        assert second.wait(60) != 0
    (line,) = error_lines(second.log(0))
    assert line.startswith("rank 1 (node ") and line.endswith(
        f"{killed}; the same command resumes from {output}/checkpoint-3"
    )
    # The launcher sees rank 1 failed, or rank 0 as well if it looks later; either way the user reads which log to open.
    assert f"{tmp_path}/second/workerlog.1" in second.terminal
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-3"]

    with launched(words, tmp_path / "third") as third:
        assert third.wait() == 0, third
    assert f"resuming from {output}/checkpoint-3" in third.terminal
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in finished.iterdir())
    assert (output / "loss_history.jsonl").read_bytes() == (finished / "loss_history.jsonl").read_bytes()
    for file in finished.glob("model-*.safetensors"):
        ours, theirs = load_file(output / file.name), load_file(file)
        assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours), file.name


def test_other_code_and_arguments_on_another_node(model, data, tmp_path):
    """By the script itself: both nodes say both values, and nothing is written."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "glm", copy / "glm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "finetune_generation.py", copy)
    with (copy / "glm" / "model" / "loss.py").open("a") as file:
        file.write("# another version\n")
    words = [command(model, data, tmp_path / "run", **STEPS, **DISTRIBUTED, seed=seed)[1:] for seed in (1, 2)]
    words[1][0] = copy / "finetune_generation.py"
    with two_nodes(words, tmp_path / "logs") as nodes:
        for node in nodes:
            assert node.wait() != 0
            (line,) = error_lines(node.log(0))
            found = re.fullmatch(
                DIFFER + r" the code \(model/loss\.py (\w+) in rank 0, model/loss\.py (\w+) in rank 1\) "
                r"and the arguments \(--seed 1 in rank 0, --seed 2 in rank 1\): start all with the same .*",
                line,
            )
            assert found and found[1] != found[2], node
    assert not (tmp_path / "run").exists()


PATHS = f"{ROOT}:{ROOT / 'tests'}"
DIFFER = "the processes of this launch differ in"
CASES = {
    "data": rf"{DIFFER} the data \(30 \+ 0 rows .* \w{{12}} in rank 0, 29 \+ 0 rows .* \w{{12}} in rank 1\)",
    "config": rf"{DIFFER} the model's config.json \(num_layers 2 in rank 0, num_layers 1 in rank 1\)",
    "output": r"output_dir \S+ is not shared: rank 1 does not see there what rank 0 writes",
}


def test_other_files_on_another_node(model, data, tmp_path):
    """The real fine-tuning of mismatches.py, several times in one launch: refused before a step is trained."""
    with launched(
        [SCRIPTS / "mismatches.py", model, data, tmp_path / "nodes"], tmp_path / "logs", PYTHONPATH=PATHS
    ) as launcher:
        assert launcher.wait() == 0, launcher
    for rank in (0, 1):
        found = dict(re.findall(r"^(\w+): (.*)$", launcher.log(rank), re.MULTILINE))
        for case, pattern in CASES.items():
            assert re.match(pattern, found[case]), launcher
    assert not list(tmp_path.rglob("loss_history.jsonl"))


def test_a_rank_that_never_starts():
    """Each of two ranks waits for the other one, of a launch that has no other."""
    said = {0: "rank 1 of 2 did not start within 2 s", 1: "rank 0 did not answer rank 1 at 127.0.0.1:"}
    processes = {}
    for rank in said:
        here = f"127.0.0.1:{free_port()}"
        launch = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_TRAINER_ENDPOINTS": f"{here},{here}",
        }
        processes[rank] = subprocess.Popen(
            [sys.executable, SCRIPTS / "first_words.py"],
            env=environment(GLM_START_TIMEOUT="2", **launch),
            stderr=subprocess.PIPE,
            text=True,
        )
    for rank, process in processes.items():
        (line,) = error_lines(process.communicate(timeout=60)[1])
        assert process.returncode == 1
        assert line.startswith(said[rank]) and "(GLM_START_TIMEOUT): see" in line

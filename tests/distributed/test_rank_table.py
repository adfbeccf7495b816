"""Rank tables as hccl_tools.py and merge_hccl.py write them become commands of Paddle's launcher."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shared_files import SHARED

from glm.distributed.rank_table import Server, environment_note, launch_commands, read_rank_table
from glm.errors import GLMError

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ["10.1.0.1", "10.1.0.2"]


def table(servers: int = 1, devices: int = 8, first: int = 0, number=str) -> dict:
    """As hccl_tools.py writes it, with strings; merge_hccl.py writes the rank_ids as numbers."""
    return {
        "version": "1.0",
        "server_count": str(servers),
        "server_list": [
            {
                "server_id": HOSTS[server],
                "device": [
                    {
                        "device_id": str(first + device),
                        "device_ip": f"192.{device}.27.{server}",
                        "rank_id": number(server * devices + device),
                    }
                    for device in range(devices)
                ],
                "host_nic_ip": "reserve",
            }
            for server in range(servers)
        ],
        "status": "completed",
    }


def write(directory: Path, content: object) -> Path:
    path = directory / "hccl.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "glm.distributed.rank_table", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def launcher(command: str):
    """What Paddle's own launcher understands of a command."""
    from paddle.distributed.launch.context.args_envs import parse_args

    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "paddle.distributed.launch"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["launch", *words[3:]])
        known, _ = parse_args()
    return known


@pytest.mark.parametrize("number", [str, int], ids=["hccl_tools", "merge_hccl"])
def test_two_servers(tmp_path, number):
    servers = read_rank_table(write(tmp_path, table(2, 4, first=4, number=number)))
    assert servers == [Server(host, (4, 5, 6, 7)) for host in HOSTS]
    commands = launch_commands(servers, 8090, ["finetune_generation.py", "--data_path", "my data"])
    for rank, command in enumerate(commands):
        known = launcher(command)
        assert (known.master, known.nnodes, known.rank, known.devices) == ("10.1.0.1:8090", "2", rank, "4,5,6,7")
        assert known.training_script == "finetune_generation.py"
        assert known.training_script_args == ["--data_path", "my data"]
    assert len(commands) == 2


def test_one_server_needs_no_master(tmp_path):
    (command,) = launch_commands(read_rank_table(write(tmp_path, table())), 8090, ["predict_generation.py"])
    known = launcher(command)
    assert (known.master, known.nnodes, known.devices) == (None, "1", "0,1,2,3,4,5,6,7")


def test_the_table_of_the_seed(tmp_path):
    seed = SHARED / "seeds" / "mindformers-chatglm-6b.md"
    if not seed.is_file():
        pytest.skip(f"{seed} is on the developers' machine only")
    text = seed.read_text(encoding="utf-8", errors="replace")
    start = text.index('"server_count"')
    block = text[text.rindex("{", 0, start) : text.index("```", start)]
    (server,) = read_rank_table(write(tmp_path, block))
    assert server == Server("xx.xx.xx.xx", tuple(range(8)))


def test_the_command_prints_a_command_a_server(tmp_path):
    path = write(tmp_path, table(2, 2))
    result = run(path, "--port", 7000, "--", "finetune_generation.py", "--tensor_parallel_degree", "2", "--port", "3")
    start = "python -m paddle.distributed.launch --master 10.1.0.1:7000 --nnodes 2 --rank"
    end = "--devices 0,1 finetune_generation.py --tensor_parallel_degree 2 --port 3"
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "# on 10.1.0.1",
        f"{start} 0 {end}",
        "# on 10.1.0.2",
        f"{start} 1 {end}",
    ]
    assert "2 servers, 4 devices, ranks 0 to 3" in result.stderr
    assert "Paddle does not read this file" in result.stderr


def without(name: str, *place: object) -> dict:
    """A table with two servers that lacks a field."""
    whole = table(2, 2)
    inside = whole
    for key in place:
        inside = inside[key]
    del inside[name]
    return whole


def changed(value: object, *place: object) -> dict:
    """A table with two servers and another value at one place."""
    whole = table(2, 2)
    inside = whole
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return whole


DEVICE = ("server_list", 1, "device", 0)
SHORT = table(2, 2)["server_list"][1]["device"][:1]
WRONG = {
    "not JSON": ("{", "is not valid JSON"),
    "a list": ([], r"is \[\], and must be an object with 'server_list'"),
    "no server_list": (without("server_list"), "no 'server_list'; it has: version, server_count, status"),
    "no server_count": (without("server_count"), "no 'server_count'"),
    "no server_id": (without("server_id", "server_list", 1), r"server_list\[1\] has no 'server_id'"),
    "no device": (without("device", "server_list", 1), r"server_list\[1\] has no 'device'"),
    "no device_id": (without("device_id", *DEVICE), r"server_list\[1\].device\[0\] has no 'device_id'"),
    "no rank_id": (without("rank_id", *DEVICE), r"server_list\[1\].device\[0\] has no 'rank_id'"),
    "no servers": (changed([], "server_list"), "server_list is empty"),
    "empty server": (changed([], "server_list", 1, "device"), r"\(10.1.0.2\): device is empty"),
    "unfinished": (changed("initializing", "status"), "status is 'initializing', not 'completed'"),
    "count": (changed("3", "server_count"), "server_count is 3, and server_list has 2"),
    "count no number": (changed("two", "server_count"), 'server_count is "two", and must be a whole number'),
    "type": (changed(7, "server_list", 0, "server_id"), "server_id is 7, which is of another type"),
    "rank no number": (changed("-1", *DEVICE, "rank_id"), 'rank_id is "-1", and must be a whole number'),
    "rank a boolean": (changed(True, *DEVICE, "rank_id"), "rank_id is true, and must be a whole number"),
    "rank order": (changed("3", *DEVICE, "rank_id"), "rank_id 3 stands where 2 belongs"),
    "device twice": (changed("1", *DEVICE, "device_id"), "device_id 1 occurs 2 times"),
    "sizes": (changed(SHORT, "server_list", 1, "device"), "10.1.0.2 has 1 devices and 10.1.0.1 has 2"),
    "server twice": (changed(HOSTS[0], "server_list", 1, "server_id"), "server_id 10.1.0.1 occurs twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_started_is_refused(tmp_path, case):
    content, message = WRONG[case]
    path = write(tmp_path, content)
    with pytest.raises(GLMError, match=message) as caught:
        read_rank_table(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "rank_table (see --help)"),
        (["none.json"], 1, "error: none.json cannot be read: No such file or directory; give the JSON file that hccl"),
        (["{table}"], 1, "server_count is 3, and server_list has 2"),
        (["{table}", "--port", "0"], 2, "port is 0, and must be between 1 and 65535"),
        (["{table}", "--prt", "5"], 2, "did you mean --port?"),
        (["{table}", "finetune_generation.py"], 2, "unknown argument finetune_generation.py"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, code, message):
    path = write(tmp_path, changed("3", "server_count"))
    result = run(*(word.replace("{table}", str(path)) for word in arguments))
    assert (result.returncode, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_teaches():
    result = run("--help")
    assert result.returncode == 0
    usage = "usage: python -m glm.distributed.rank_table [-h] [--debug] [--port PORT] rank_table [-- SCRIPT …]\n"
    assert result.stdout.startswith(usage)
    assert "python -m glm.distributed.rank_table hccl_8p.json" in result.stdout


def test_a_variable_that_paddle_does_not_read(tmp_path):
    assert environment_note({}) is None
    assert environment_note({"RANK_TABLE_FILE": ""}) is None
    path = write(tmp_path, table())
    note = environment_note({"RANK_TABLE_FILE": str(path)})
    assert "\n" not in note
    words = shlex.split(note[note.index("python -m glm.distributed.rank_table") :])
    assert words[:3] == ["python", "-m", "glm.distributed.rank_table"]
    assert run(*words[3:]).returncode == 0


def test_paddle_reads_no_rank_table():
    """What the note says, of the installed Paddle: no part of its launcher, nor its library, knows the variable."""
    from importlib.util import find_spec

    paddle = Path(find_spec("paddle").origin).parent
    name = b"RANK_TABLE_FILE"
    files = [*paddle.glob("distributed/**/*.py"), *paddle.glob("base/**/*.py"), *paddle.glob("device/**/*.py")]
    assert len(files) > 100
    assert [file for file in files if name in file.read_bytes()] == []

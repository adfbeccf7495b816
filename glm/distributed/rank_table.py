"""MindFormers' RANK_TABLE_FILE, read and turned into the commands of Paddle's launcher.

The file lists every NPU of a job; MindSpore's hccl_tools.py and merge_hccl.py write it. HCCL takes such a file from a
framework (HcclCommInitClusterInfo of its C interface), and the environment variable is the frameworks': MindSpore, the
TensorFlow adapter and torch_npu read it. Paddle does not. Its launcher starts a process for each of `--devices`, and
its NPU plugin passes the first rank's root information to the others instead of a table (HcclGetRootInfo and
HcclCommInitRootInfo in PaddleCustomDevice's backends/npu/runtime/runtime.cc).
"""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm.errors import GLMError, UsageError
from glm.files.json_files import parse_json

VARIABLE = "RANK_TABLE_FILE"
PORT = 8090
COMPLETED = "completed"


@dataclass(frozen=True)
class Server:
    """One machine: its address, and its devices in the order of their ranks."""

    address: str
    devices: tuple[int, ...]


def read_rank_table(path: Path) -> list[Server]:
    """The servers of a rank table, in the order of their ranks.

    Raises:
        GLMError: the file is damaged or unfinished, or describes what Paddle's launcher cannot start: ranks that are
            not 0, 1, 2 … from server to server, or servers with different numbers of devices.
    """
    table = parse_json(path, "give the JSON file that hccl_tools.py or merge_hccl.py wrote")
    rows = _field(table, "server_list", list, path)
    if not rows:
        raise GLMError(f"{path}: server_list is empty; at least one server is needed")
    status = table.get("status", COMPLETED)
    if status != COMPLETED:
        raise GLMError(f"{path}: status is '{status}', not '{COMPLETED}': wait until the cluster has written the table")
    count = _number(_field(table, "server_count", (int, str), path), "server_count", path)
    if count != len(rows):
        raise GLMError(f"{path}: server_count is {count}, and server_list has {len(rows)}: correct one of them")
    ranks: list[int] = []
    servers = [_server(row, f"{path}: server_list[{index}]", ranks) for index, row in enumerate(rows)]
    _check_ranks(ranks, path)
    _check_servers(servers, path)
    return servers


def launch_commands(servers: Sequence[Server], port: int, script: Sequence[str]) -> list[str]:
    """The command of each server, in their order; the first one is the master.

    Args:
        port: a free port of the first server.
        script: the script and its arguments.
    """
    master = f"{servers[0].address}:{port}"
    return [
        shlex.join(
            [
                *("python", "-m", "paddle.distributed.launch"),
                *(("--master", master, "--nnodes", str(len(servers)), "--rank", str(rank)) if servers[1:] else ()),
                *("--devices", ",".join(map(str, server.devices)), *script),
            ]
        )
        for rank, server in enumerate(servers)
    ]


def environment_note(environ: Mapping[str, str]) -> str | None:
    """One line for a user whose environment names a rank table, None if it does not."""
    path = environ.get(VARIABLE)
    if not path:
        return None
    return (
        f"{VARIABLE} is set, but Paddle starts no processes by it, and HCCL reads a rank table only if a framework "
        "hands it over, which Paddle does not; the launcher's commands: python -m glm.distributed.rank_table "
        f"{shlex.quote(path)}"
    )


def _server(row: object, where: str, ranks: list[int]) -> Server:
    """One entry of server_list; its ranks are added to `ranks`."""
    address = _field(row, "server_id", str, where)
    devices = _field(row, "device", list, where)
    if not devices:
        raise GLMError(f"{where} ({address}): device is empty; a server needs at least one")
    ids = []
    for index, device in enumerate(devices):
        inside = f"{where}.device[{index}]"
        ids.append(_number(_field(device, "device_id", (int, str), inside), "device_id", inside))
        ranks.append(_number(_field(device, "rank_id", (int, str), inside), "rank_id", inside))
    twice = next((device for device, times in Counter(ids).items() if times > 1), None)
    if twice is not None:
        raise GLMError(f"{where} ({address}): device_id {twice} occurs {ids.count(twice)} times; each may occur once")
    return Server(address, tuple(ids))


def _check_ranks(ranks: list[int], path: Path) -> None:
    for expected, rank in enumerate(ranks):
        if rank != expected:
            raise GLMError(
                f"{path}: rank_id {rank} stands where {expected} belongs: Paddle counts the devices from server to "
                "server; put them into that order"
            )


def _check_servers(servers: list[Server], path: Path) -> None:
    first = servers[0]
    for index, server in enumerate(servers):
        if len(server.devices) != len(first.devices):
            raise GLMError(
                f"{path}: {server.address} has {len(server.devices)} devices and {first.address} has "
                f"{len(first.devices)}: the same number is needed on every server"
            )
        if server.address in {other.address for other in servers[:index]}:
            raise GLMError(f"{path}: server_id {server.address} occurs twice; list its devices in one entry")


def _field(row: object, name: str, kind: type | tuple[type, ...], where: Path | str):
    if not isinstance(row, dict):
        raise GLMError(f"{where} is {json.dumps(row)[:40]}, and must be an object with '{name}'")
    if name not in row:
        raise GLMError(f"{where} has no '{name}'; it has: {', '.join(row) or 'nothing'}")
    if not isinstance(row[name], kind):
        raise GLMError(f"{where}: {name} is {json.dumps(row[name])[:40]}, which is of another type than a rank table's")
    return row[name]


def _number(value: int | str, name: str, where: Path | str) -> int:
    """hccl_tools.py writes numbers as strings, merge_hccl.py writes some of them as numbers."""
    if isinstance(value, bool) or not str(value).isdecimal():
        raise GLMError(f"{where}: {name} is {json.dumps(value)}, and must be a whole number")
    return int(value)


DESCRIPTION = """Turns a RANK_TABLE_FILE of MindFormers (hccl_8p_….json) into the commands of Paddle's launcher.

  python -m glm.distributed.rank_table hccl_8p.json
  python -m glm.distributed.rank_table hccl_2s_16p.json --port 8090 -- finetune_generation.py --tensor_parallel_degree 8

What stands behind -- is the script and its arguments. One command is printed for each server; start all of them.
"""


def main() -> None:
    """Runs the command; its flags are read by glm.cli, which stands above this room."""
    from glm.cli.script import ScriptParser, run_script

    run_script(lambda: explain(*_parse(ScriptParser)))


def explain(path: Path, port: int, script: Sequence[str]) -> None:
    """Explains a rank table on standard error, and prints the commands on standard output."""
    servers = read_rank_table(path)
    total = sum(len(server.devices) for server in servers)
    sys.stderr.write(
        f"{path}: {len(servers)} server{'s' * (len(servers) > 1)}, {total} devices, ranks 0 to {total - 1}\n"
        "Paddle does not read this file: its launcher starts the processes, and they meet at the master.\n"
        "Of the table it needs server_id and device_id; device_ip stays unused.\n"
    )
    for server, command in zip(servers, launch_commands(servers, port, script), strict=True):
        print(f"# on {server.address}\n{command}")


def _parse(parser_class: Callable[..., Any]) -> tuple[Path, int, list[str]]:
    usage = "%(prog)s [-h] [--debug] [--port PORT] rank_table [-- SCRIPT …]"
    parser = parser_class(DESCRIPTION, from_file=False, prog="python -m glm.distributed.rank_table", usage=usage)
    parser.add_argument("rank_table", type=Path, help="the JSON file")
    parser.add_argument("--port", type=int, default=PORT, help="a free port of the first server, for the rendezvous")
    words, behind = sys.argv[1:], []
    if "--" in words:
        words, behind = words[: words.index("--")], words[words.index("--") + 1 :]
    arguments = parser.parse_args(words)
    if not 0 < arguments.port < 65536:
        raise UsageError(f"port is {arguments.port}, and must be between 1 and 65535")
    return arguments.rank_table, arguments.port, behind or ["finetune_generation.py"]


if __name__ == "__main__":
    main()

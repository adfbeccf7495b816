"""Goes wrong on purpose, as the first argument says: disagree, late, killed or unanswered."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import os
import signal
import sys
import time

import paddle
import paddle.distributed as dist


def disagree(rank: int) -> None:
    """One rank sums ten numbers, the other twelve."""
    dist.all_reduce(paddle.ones([10 + 2 * rank]))


def late(rank: int) -> None:
    """Rank 1 does not come."""
    if rank == 1:
        time.sleep(60)
    dist.all_reduce(paddle.ones([10]))


def killed(rank: int) -> None:
    """Rank 1 dies without a word between two collectives."""
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(paddle.ones([10]))


def unanswered(rank: int) -> None:
    """Rank 0 waits for a message from rank 1, which dies."""
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.recv(paddle.ones([10]), 1)


def main() -> None:
    paddle.set_device("npu:" + os.environ["FLAGS_selected_npus"])  # noqa: SIM112  the launcher's spelling
    dist.init_parallel_env()
    dist.all_reduce(paddle.ones([1]))
    dist.send(paddle.ones([1]), 1) if dist.get_rank() == 0 else dist.recv(paddle.ones([1]), 0)
    print(f"rank {dist.get_rank()} is process {os.getpid()}", flush=True)
    # The launcher ends the others when one dies: on a busy machine before the simulator has told them.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start = time.monotonic()
    try:
        {"disagree": disagree, "late": late, "killed": killed, "unanswered": unanswered}[sys.argv[1]](dist.get_rank())
    finally:
        print(f"ended after {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()

"""Every collective, dtype and reduction against numpy on all launched ranks; then big tensors and groups."""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import os

import numpy as np
import paddle
import paddle.distributed as dist

SIZE = 12 * 17  # a multiple of every number of ranks
DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
# No average: Paddle 3.3 asks its CPU wheel for NCCL's version, and below that its custom devices refuse the operation.
OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN, "prod": dist.ReduceOp.PROD}
BIG = 50_000_000  # bytes


def values(rank: int, dtype: str, size: int = SIZE) -> np.ndarray:
    """float64 [size]: whole numbers that every dtype holds exactly, also when four are multiplied."""
    low, high = {"bool": (0, 2), "uint8": (0, 4)}.get(dtype, (-3, 4))
    return np.random.default_rng(1000 * rank + len(dtype)).integers(low, high, size).astype("float64")


def reduced(arrays: list[np.ndarray], op: str, dtype: str) -> np.ndarray:
    """What numpy makes of all ranks' values; a bool's sum is "any"."""
    stacked = np.stack(arrays)
    if dtype == "bool":
        return (stacked.min(0) if op in ("min", "prod") else stacked.max(0)).astype("float64")
    return {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod}[op](stacked, 0)


def tensor(array: np.ndarray, dtype: str) -> paddle.Tensor:
    return paddle.to_tensor(array, dtype="float64").astype(dtype)


def check(result: paddle.Tensor, expected: np.ndarray, *what) -> None:
    np.testing.assert_array_equal(result.astype("float64").numpy(), expected, " ".join(map(str, what)))


def check_reductions(dtype: str, rank: int, ranks: int) -> None:
    inputs = [values(other, dtype) for other in range(ranks)]
    share = SIZE // ranks
    for name, op in OPS.items():
        expected = reduced(inputs, name, dtype)
        everywhere = tensor(inputs[rank], dtype)
        dist.all_reduce(everywhere, op)
        check(everywhere, expected, "all_reduce", dtype, name)
        at_root = tensor(inputs[rank], dtype)
        dist.reduce(at_root, ranks - 1, op)
        if rank == ranks - 1:
            check(at_root, expected, "reduce", dtype, name)
        part = tensor(np.zeros(share), dtype)
        dist.reduce_scatter(part, tensor(inputs[rank], dtype), op)
        check(part, expected[rank * share : (rank + 1) * share], "reduce_scatter", dtype, name)


def check_movements(dtype: str, rank: int, ranks: int) -> None:
    inputs = [values(other, dtype) for other in range(ranks)]
    for root in range(ranks):
        moved = tensor(inputs[rank], dtype)
        dist.broadcast(moved, root)
        check(moved, inputs[root], "broadcast", dtype)
    # Whole tensors: Paddle cannot cut an int16 into a list.
    gathered = tensor(np.zeros(SIZE * ranks), dtype)
    dist.stream.all_gather(gathered, tensor(inputs[rank], dtype))
    check(gathered, np.concatenate(inputs), "all_gather", dtype)
    exchanged = tensor(np.zeros(SIZE), dtype)
    dist.alltoall_single(exchanged, tensor(inputs[rank], dtype))
    check(exchanged, np.concatenate([np.split(array, ranks)[rank] for array in inputs]), "all_to_all", dtype)
    if rank == 0:
        dist.send(tensor(inputs[0], dtype), ranks - 1)
    elif rank == ranks - 1:
        received = tensor(np.zeros(SIZE), dtype)
        dist.recv(received, 0)
        check(received, inputs[0], "send/recv", dtype)


def check_ring(rank: int, ranks: int) -> None:
    """Even ranks send first: Paddle does not group batch_isend_irecv for custom devices, so all at once would wait."""
    outgoing, incoming = paddle.full([700_000], rank, "float32"), paddle.zeros([700_000])
    steps = [lambda: dist.send(outgoing, (rank + 1) % ranks), lambda: dist.recv(incoming, (rank - 1) % ranks)]
    for step in steps if rank % 2 == 0 else reversed(steps):
        step()
    check(incoming, np.full(700_000, (rank - 1) % ranks), "ring")


def check_big(rank: int, ranks: int) -> None:
    size = BIG // 4 // ranks * ranks
    inputs = [(np.arange(size) % 1021 * (other + 1)).astype("float32") for other in range(ranks)]
    total = paddle.to_tensor(inputs[rank])
    dist.all_reduce(total)
    assert np.array_equal(total.numpy(), sum(inputs)), "big all_reduce"
    part = paddle.zeros([size // ranks])
    dist.reduce_scatter(part, paddle.to_tensor(inputs[rank]))
    assert np.array_equal(part.numpy(), np.split(sum(inputs), ranks)[rank]), "big reduce_scatter"
    moved = paddle.to_tensor(inputs[rank])
    dist.broadcast(moved, 0)
    assert np.array_equal(moved.numpy(), inputs[0]), "big broadcast"
    if rank == 0:
        dist.send(paddle.to_tensor(inputs[0] + 1), 1)
    elif rank == 1:
        dist.recv(moved, 0)
        assert np.array_equal(moved.numpy(), inputs[0] + 1), "big send"


def check_groups(rank: int) -> None:
    """Four ranks as a square: rows and columns are groups of two that work in turn."""
    rows = [dist.new_group(ranks) for ranks in ([0, 1], [2, 3])]
    columns = [dist.new_group(ranks) for ranks in ([0, 2], [1, 3])]
    for turn in range(20):
        across, down = paddle.to_tensor([rank + turn]), paddle.to_tensor([rank * 10 + turn])
        dist.all_reduce(across, group=rows[rank // 2])
        dist.all_reduce(down, group=columns[rank % 2])
        assert int(across) == sum(other + turn for other in ([0, 1], [2, 3])[rank // 2])
        assert int(down) == sum(other * 10 + turn for other in ([0, 2], [1, 3])[rank % 2])


def main() -> None:
    paddle.set_device("npu:" + os.environ["FLAGS_selected_npus"])  # noqa: SIM112  the launcher's spelling
    dist.init_parallel_env()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for dtype in DTYPES:
        check_reductions(dtype, rank, ranks)
        check_movements(dtype, rank, ranks)
    check_ring(rank, ranks)
    gathered, exchanged = [], []
    dist.all_gather(gathered, paddle.full([3], rank))
    dist.alltoall(exchanged, [paddle.full([3], 10 * rank + other) for other in range(ranks)])
    assert [int(one[0]) for one in gathered] == list(range(ranks))
    assert [int(one[0]) for one in exchanged] == [10 * other + rank for other in range(ranks)]
    if ranks == 2:
        check_big(rank, ranks)
    if ranks == 4:
        check_groups(rank)
    dist.barrier()
    print(f"rank {rank} of {ranks}: all equal")


if __name__ == "__main__":
    main()

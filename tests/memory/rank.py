"""A rank of tests/memory/test_estimate_ranks.py on the simulated NPU: prints what it measured, a line of JSON per run.

Arguments: the runs as a list, and in a second one what their configurations have besides.
"""

import glm  # noqa: F401  first: it chooses Paddle's settings

# isort: split
import json
import sys
from dataclasses import asdict

import paddle
import paddle.distributed as dist
from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker

from glm.distributed import tensor_parallel
from glm.distributed.processes import process_count
from glm.memory import Run
from tests.memory import measurement

paddle.set_device("npu")
tensor_parallel.start(process_count())
get_rng_state_tracker().add(tensor_parallel.LOCAL_SEED, 1 + dist.get_rank())  # PaddleNLP's arguments do it in training
runs = json.loads(sys.argv[1])
changes = json.loads(sys.argv[2])
for run, change in zip(runs, changes, strict=True):
    shape = {"max_position_embeddings": 2048} | tensor_parallel.tensor_parallel() | change
    config = measurement.config_of(**shape)
    measure = measurement.measure_generation if run["train"] == "none" else measurement.measure_training
    found = measure(config, Run(**run), measurement.DEVICE, dist.get_rank())
    print("measured", json.dumps(asdict(found)), flush=True)

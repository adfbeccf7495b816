"""Lists of requests are completed as by the engine before requests could come and go."""

import hashlib

import numpy as np
from simulated import END, SimulatedRuntime, random_request

from glm.encoding.batches import TextPositions
from glm.engine import Engine, EngineOptions, StopTokens

# Written by this project's engine of commit 643859c, which knew lists of requests only.
BEFORE = """
b57c0e1b7948 afba7185dfbe 961fbbcd4b11 6d9e7a9724f3 17c917bc7a2d 0bb9c3455c5c dd52533c0308 d1cf7c61901a
13455a1c17c8 eeb6c62b3b84 544fd365515d 448f67d4f082 12bbfbe0d44a f68c19b02289 cd336b2f4525 52c298353a40
2fdca1971ae4 fb586e2ec584 25978d8fd397 9906fa7b5823 b6019b114fd9 6cdd6c029895 bc4b3f189bc0 3bdcfef5d7b6
"""


def digest(seed: int) -> str:
    """All calls of the runtime and all that is said, of lists of requests one after another."""
    draw, runtime, said = np.random.default_rng(seed), SimulatedRuntime(exact=False), []
    options = EngineOptions(
        memory_limit=None if seed % 2 else 300 * 24 * int(draw.integers(1, 4)),
        chunk=int(draw.integers(3, 40)),
        reuse_prefix=False,
    )
    engine = Engine(runtime, TextPositions(), StopTokens((END,), 0), options)
    for _ in range(2):
        requests = [random_request(draw) for _ in range(int(draw.integers(1, 12)))]
        for event in engine.run(requests, int(draw.integers(1, 6))):
            said.append((event.id, event.token, event.result and event.result.tokens))
    said += [(what, count) for what, count, _ in runtime.calls]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def test_lists_of_requests_are_completed_as_before():
    """Every call, of as many tokens and texts, in the same order: to the last bit of a real runtime."""
    assert [digest(seed) for seed in range(24)] == BEFORE.split()

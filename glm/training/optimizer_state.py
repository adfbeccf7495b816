"""AdamW's state on disk under the weights' names, so that a run resumes with any number of ranks.

PaddleNLP saves what `optimizer.state_dict()` gives, under names that count up through a process and in the pieces of
the run that wrote it. Here an entry is `<weight's name>.<moment1_0 | moment2_0 | beta1_pow_acc_0 | …>`, with
`master_weights` for the float32 copy of a half-precision weight. Moments have the shape of their weight, so the plan
(glm/distributed/plan.py) cuts and joins them as it does weights. Files: `optimizer[.tpNN][_shardNN].pdopt`, one per
rank. Of ranks that share the experts each writes a shard: those of its experts, one by one, and the first one the rest.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from glm.checkpoint.expert_stacks import expert_name, expert_of, stack_name
from glm.checkpoint.write import write_pdparams
from glm.config.shapes import is_expert_stack
from glm.distributed.plan import is_padded, rank_part, split_axis, whole
from glm.errors import GLMError
from glm.pickles.unpickle import load_pdparams

MASTER = "master_weights"
Parts = Callable[[], list[np.ndarray]]
_DEGREES = "degrees"  # tensor-parallel and sharding degree of the run that wrote a file
_FILE = re.compile(r"optimizer(?:\.(?:tp(\d{2,}))?_?(?:shard(\d{2,}))?)?\.pdopt")


def save_optimizer(path: Path, optimizer, names: Mapping[str, str], degrees: tuple[int, int], config) -> None:
    """Writes this rank's entries.

    Args:
        names: of the weights, by their parameter's own name (`Tensor.name`).
        degrees: tensor-parallel and sharding degree; of ranks that share experts, how many they are, for the latter.
        config: of the model.
    """
    state = {_DEGREES: np.array(degrees, dtype="int64")}
    for key, tensor in _flat(optimizer.state_dict()):
        state |= _of_rank(_disk_name(key, names), tensor.numpy(), config)
    write_pdparams(path, state)


def _of_rank(name: str, array: np.ndarray, config) -> dict[str, np.ndarray]:
    """What this rank writes of an entry."""
    if config.expert_parallel_degree == 1:
        return {name: array}
    weight, kind = name.rsplit(".", 1)
    if is_expert_stack(weight) and array.ndim == 3:
        singles = zip(config.own_experts, array, strict=True)
        return {f"{expert_name(weight, expert)}.{kind}": part for expert, part in singles}
    return {name: array} if config.expert_parallel_rank == 0 else {}


def load_optimizer(directory: Path, optimizer, names: Mapping[str, str], config) -> None:
    """Gives an optimizer the entries of this rank's weights, whatever the degrees were when they were saved.

    Args:
        directory: of the checkpoint.
        names: as in `save_optimizer`, of the weights of this rank.
        config: of the model: this rank's place, vocab_size.

    Raises:
        GLMError: files that are missing, damaged, or of another model.
    """
    entries = _by_name(_read_files(directory), config.own_experts)
    own = {own_name: parameter for parameter, own_name in names.items()}
    state: dict = {MASTER: {}}
    for name, parts in entries.items():
        weight, kind = name.rsplit(".", 1)
        if weight not in own:
            continue
        array = _for_rank(weight, parts(), config)
        tensor = paddle.to_tensor(np.ascontiguousarray(array))
        if kind == MASTER:
            tensor.name = f"{own[weight]}_fp32_master_0"  # Paddle calls the moments after it
            state[MASTER][own[weight]] = tensor
        else:
            state[f"{own[weight]}_{kind}"] = tensor
    _require_same_precision(directory, bool(state[MASTER]), config.dtype != "float32")
    _require_all(directory, {name.rsplit(".", 1)[0] for name in entries}, own)
    optimizer.set_state_dict(state if state[MASTER] else {k: v for k, v in state.items() if k != MASTER})


def _flat(state: Mapping) -> Iterable[tuple[str, paddle.Tensor]]:
    for key, value in state.items():
        if key == MASTER:
            yield from ((f"{name}_{MASTER}", tensor) for name, tensor in value.items())
        elif isinstance(value, paddle.Tensor):
            yield key, value


def _disk_name(key: str, names: Mapping[str, str]) -> str:
    """`linear_0.w_0_moment1_0` → `model.layers.0.self_attn.q_proj.weight.moment1_0`."""
    parameter = max((name for name in names if key.startswith(f"{name}_")), key=len)
    return f"{names[parameter]}.{key[len(parameter) + 1 :]}"


def _read_files(directory: Path) -> dict[tuple[int, int], Mapping[str, np.ndarray]]:
    """The files of a checkpoint by tensor-parallel and sharding rank."""
    found = {}
    for path in sorted(directory.iterdir()):
        match = _FILE.fullmatch(path.name)
        if match:
            found[tuple(int(rank or 0) for rank in match.groups())] = load_pdparams(path)
    if not found:
        raise GLMError(f"{directory} holds no optimizer state (optimizer.pdopt): training cannot resume from it")
    if any(_DEGREES not in state for state in found.values()):
        raise GLMError(
            f"{directory}: its optimizer state was not written by this suite: training cannot resume from it"
        )
    degrees = {tuple(state[_DEGREES].tolist()) for state in found.values()}
    if len(degrees) > 1:
        raise GLMError(f"{directory} mixes optimizer states of runs with the degrees {sorted(degrees)}: keep one run's")
    tensor_parallel, sharding = degrees.pop()
    for tp in range(tensor_parallel):
        for shard in range(sharding):
            if (tp, shard) not in found:
                raise GLMError(f"{directory} lacks {file_name(tp, tensor_parallel, shard, sharding)}: copy it there")
    return found


def file_name(tp_rank: int, tp_degree: int, shard_rank: int, shard_degree: int) -> str:
    """PaddleNLP's name for a rank's optimizer state."""
    ranks = [f"tp{tp_rank:02d}"] * (tp_degree > 1) + [f"shard{shard_rank:02d}"] * (shard_degree > 1)
    return f"optimizer.{'_'.join(ranks)}.pdopt" if ranks else "optimizer.pdopt"


def _by_name(files: Mapping[tuple[int, int], Mapping[str, np.ndarray]], experts: range) -> dict[str, Parts]:
    """Entry → its parts in the order of the tensor-parallel ranks; sharding ranks hold different entries.

    Arrays are views of files, but for experts that lie one by one: these are copied when their parts are asked for.

    Args:
        experts: of each layer, those that are wanted.
    """
    parts: dict[str, dict[int, np.ndarray]] = {}
    singles: dict[str, dict[int, np.ndarray]] = {}
    for (tp, _), state in files.items():
        for name in state:
            weight, _, kind = name.rpartition(".")
            expert = expert_of(weight)
            if expert in experts:
                singles.setdefault(f"{stack_name(weight)}.{kind}", {})[expert] = state[name]
            elif expert is None and name != _DEGREES:
                array = state[name]
                own = slice(experts.start, experts.stop) if is_expert_stack(weight) and array.ndim == 3 else ...
                parts.setdefault(name, {})[tp] = array[own]
    stacks = {name: partial(_stacked, each, experts) for name, each in singles.items()}
    return stacks | {name: partial(_in_order, by_rank) for name, by_rank in parts.items()}


def _stacked(arrays: Mapping[int, np.ndarray], experts: range) -> list[np.ndarray]:
    return [np.stack([arrays[expert] for expert in experts])]


def _in_order(arrays: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    return [arrays[rank] for rank in sorted(arrays)]


def _for_rank(weight: str, parts: list[np.ndarray], config) -> np.ndarray:
    """This rank's part of an entry; what has not the shape of its weight (beta powers) is the same everywhere."""
    axis = split_axis(weight)
    if axis is None or parts[0].size == 1:
        return parts[0]
    degree = config.tensor_parallel_degree
    if len(parts) == degree:
        return parts[config.tensor_parallel_rank]
    size = config.vocab_size if is_padded(weight) else None
    return rank_part(weight, whole(weight, parts, size), config.tensor_parallel_rank, degree)


def _require_same_precision(directory: Path, has_masters: bool, half: bool) -> None:
    if has_masters != half:
        saved, now = (("half precision (O2)" if x else "float32") for x in (has_masters, half))
        raise GLMError(f"{directory} was trained with weights in {saved}, this run has them in {now}: keep the first")


def _require_all(directory: Path, found: set[str], own: Mapping[str, str]) -> None:
    missing = sorted(set(own) - found)
    if missing:
        more = f" and {len(missing) - 1} more" * (len(missing) > 1)
        raise GLMError(f"{directory}: the optimizer state lacks {missing[0]}{more}: it is of another model")

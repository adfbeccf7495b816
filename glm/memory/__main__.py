"""The command `python -m glm.memory`."""

import sys
from argparse import Namespace
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from glm.cli.script import ScriptParser, run_script
from glm.config.fields import DTYPES, ConfigFields, PlainConfig
from glm.config.presets import PRESETS, preset_name
from glm.config.shapes import LORA_TARGETS, active_shapes, elements, parameter_shapes
from glm.errors import GLMError, UsageError
from glm.memory import HEADROOM, Memory, Run, estimate, fits
from glm.memory.run import OPT_LEVELS, SHARDING, TRAIN

DEGREES = (1, 2, 4, 8)
_TRAINING, _GENERATION = "peak of a training step", "peak of generation"
DESCRIPTION = f"""How much memory one device needs for a model, computed: nothing is loaded and no device is needed.

  python -m glm.memory --preset glm-10b-chinese --tensor_parallel_degree 4 --dtype bfloat16
  python -m glm.memory --preset glm-large-chinese --train full --dtype bfloat16 --fp16_opt_level O2 --recompute
  python -m glm.memory --preset glm-10b-chinese --train lora --dtype bfloat16 --fp16_opt_level O2 --device_memory 32

With --device_memory it says which tensor-parallel degrees, or with --expert_parallel_degree which of those, fit on
devices of so many GiB; {HEADROOM:.0%} of each stays free for what is not computed here.
"""


def main() -> None:
    """Prints the table of one run, and which degrees fit."""
    arguments = _parse()
    name, run = _model(arguments), _run(arguments)
    degree = arguments.tensor_parallel_degree
    divides = arguments.sequence_parallel
    shared = {"sequence_parallel": divides, "expert_parallel_degree": arguments.expert_parallel_degree}
    config = PlainConfig.from_pretrained(name, tensor_parallel_degree=degree, **shared)
    memory = estimate(config, run)
    experts = f", expert-parallel degree {config.expert_parallel_degree}" if config.expert_parallel_degree > 1 else ""
    print_memory(
        f"{name} in {run.dtype}, tensor-parallel degree {degree}{experts}, a rank", memory, _peaks(memory, run, config)
    )
    if config.n_routed_experts:
        whole = config.changed(tensor_parallel_degree=1, sequence_parallel=False, expert_parallel_degree=1)
        stored, used = elements(parameter_shapes(whole), whole), elements(active_shapes(whole), whole)
        print(
            f"stored: {stored / 1e9:.2f} billion weights, of which a token is multiplied by {used / 1e9:.2f} billion "
            f"({config.num_experts_per_tok} of {config.n_routed_experts} experts); a rank reads "
            f"{readable(memory.active)} for it"
        )
    if arguments.device_memory is not None:
        degrees = {d: {"tensor_parallel_degree": d, "sequence_parallel": divides and d > 1} for d in DEGREES}
        if config.expert_parallel_degree > 1:
            degrees = {d: {"expert_parallel_degree": d} for d in DEGREES}
        print_fits(lambda d: config.changed(**degrees[d]), run, arguments.device_memory)


def _parse() -> Namespace:
    parser = ScriptParser(DESCRIPTION, prog="python -m glm.memory")
    model = parser.add_argument_group("model").add_argument
    model("--preset", help=f"one of {', '.join(PRESETS)}")
    model("--model_name_or_path", help="a directory with a config.json, instead of a preset")
    model("--tensor_parallel_degree", type=int, default=1, help="devices that share one model")
    model("--sequence_parallel", action="store_true", help="in training they share the tokens between matrices, too")
    model("--expert_parallel_degree", type=int, default=1, help="data-parallel devices that divide the experts")
    run = parser.add_argument_group("run").add_argument
    run("--train", choices=TRAIN, default=Run.train, help="none: generation only")
    run("--dtype", choices=DTYPES, default=Run.dtype, help="of the arithmetic")
    run("--fp16_opt_level", choices=OPT_LEVELS, default=Run.opt_level, help="training in half precision")
    run("--recompute", action="store_true", help="keep block inputs only, and compute the blocks twice")
    run("--sharding", choices=SHARDING, default=Run.sharding, help="partitions optimizer states; stage2: gradients too")
    run("--sharding_parallel_degree", type=int, default=Run.sharding_degree, help="devices that sharding uses")
    numbers = {"batch_size": "rows per device", "src_length": "tokens of a source", "tgt_length": "tokens of a target"}
    numbers |= {"max_length": "in training, tokens of a pack of such rows; 0: rows are not packed"}
    for flag, text in (numbers | {"num_beams": "beams of generation", "r": "rank of LoRA"}).items():
        run(f"--{flag}", type=int, default=getattr(Run, flag), help=text)
    run("--lora_targets", choices=tuple(LORA_TARGETS), default=Run.lora_targets, help="layers that LoRA adapts")
    run("--device_memory", type=float, metavar="GIB", help="says which degrees fit")
    return parser.parse_args()


def _model(arguments: Namespace) -> str:
    if (arguments.preset is None) == (arguments.model_name_or_path is None):
        raise UsageError("give either --preset or --model_name_or_path (see --help)")
    for name in ("tensor_parallel_degree", "expert_parallel_degree"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"{name} is {getattr(arguments, name)}, and must be at least 1")
    if arguments.device_memory is not None and not arguments.device_memory > 0:
        raise UsageError(f"device_memory is {arguments.device_memory} GiB, and must be above 0")
    if arguments.preset is not None and preset_name(arguments.preset) not in PRESETS:
        raise UsageError(f"preset '{arguments.preset}' is not one of {', '.join(PRESETS)}")
    return arguments.preset or arguments.model_name_or_path


def _run(arguments: Namespace) -> Run:
    same = ("train", "dtype", "recompute", "batch_size", "num_beams", "r", "lora_targets", "sharding")
    same += ("src_length", "tgt_length", "max_length")
    renamed = {"opt_level": arguments.fp16_opt_level, "sharding_degree": arguments.sharding_parallel_degree}
    return Run(**{name: getattr(arguments, name) for name in same} | renamed)


def _peaks(memory: Memory, run: Run, config: ConfigFields) -> dict[str, int]:
    """Of what a rank does: one that has a part of the experts only trains."""
    peaks = {_TRAINING: memory.training} if run.train != "none" else {}
    return peaks | ({_GENERATION: memory.generation} if config.expert_parallel_degree == 1 else {})


def print_memory(title: str, memory: Memory, sums: dict[str, int]) -> None:
    """A row per part, and the peaks that they add up to."""
    parts = {"weights": memory.weights}
    if _TRAINING in sums:
        parts |= {"gradients": memory.gradients, "optimizer states": memory.optimizer}
        parts |= {"activations": memory.activations, "workspace of a step": memory.step_workspace}
    if _GENERATION in sums:
        parts |= {"cache of generation": memory.cache, "workspace of generation": memory.generation_workspace}
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, size in parts.items():
        table.add_row(name, readable(size))
    table.add_section()
    for name, size in sums.items():
        table.add_row(f"[bold]{name}[/bold]", f"[bold]{readable(size)}[/bold]")
    _print(title, table)


def print_fits(configure: Callable[[int], ConfigFields], run: Run, device_memory: float) -> None:
    """A row per degree: what a rank needs, and whether a device has it."""
    usable = (1 - HEADROOM) * device_memory
    title = f"devices of {device_memory:g} GiB, {usable:.3g} GiB of them usable"
    table = Table("degree", "a rank needs", "fits")
    for degree in DEGREES:
        try:
            memory = estimate(configure(degree), run)
        except GLMError:
            table.add_row(str(degree), "-", "no: the model cannot be sharded so")
            continue
        table.add_row(str(degree), readable(memory.peak), "yes" if fits(memory, device_memory) else "no")
    _print(title, table)


def readable(size: int) -> str:
    """Bytes in GiB, or in MiB below one GiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.2f} MiB"


def _print(title: str, table: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(title, markup=False, highlight=False)
    console.print(table)


if __name__ == "__main__":
    run_script(main)

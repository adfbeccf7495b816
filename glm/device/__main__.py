"""python -m glm.device: the device, the CPU settings and why, and for an accelerator what works on it."""

import glm

# isort: split
from glm.cli.script import ScriptParser, run_script
from glm.device.choice import choose_device, device_counts

DESCRIPTION = """Which device the scripts take, how the CPU was tuned and why, and for an accelerator what works on it.

  python -m glm.device
  python -m glm.device --device npu:1
"""


def main() -> None:
    """Prints the report."""
    wanted = _parse()
    counts = device_counts()
    found = ", ".join(kind if count == 1 else f"{count} {kind}s" for kind, count in counts.items())
    device = choose_device(wanted)
    print(f"device: {device}  (found: {found}; choose with --device)")
    for setting in glm.CPU_SETTINGS:
        print(f"{setting.name}: {setting.value or 'not set'}  ({setting.reason})")
    if device == "cpu":
        from glm.kernels import fault

        print(f"kernels: {'Paddle alone' if fault() else 'own and Paddle'}  ({fault() or 'glm/kernels is compiled'})")
    else:
        from glm.device.probe import default_dtype, print_report, probe
        from glm.model.attention_choice import print_choice

        print_report(probe(device))
        dtype, reason = default_dtype(device)
        print(f"training dtype: {dtype}  ({reason})")
        print_choice(device)


def _parse() -> str | None:
    parser = ScriptParser(DESCRIPTION, from_file=False, prog="python -m glm.device")
    parser.add_argument("--device", help="npu, gpu or cpu, also with a number; default: the best one present")
    return parser.parse_args().device


if __name__ == "__main__":
    run_script(main)

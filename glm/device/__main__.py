"""python -m glm.device: the device, the CPU settings and why, and for an accelerator what works on it."""

import glm

# isort: split
from glm.cli import run_script
from glm.device.choice import choose_device, device_counts


def main() -> None:
    """Prints the report."""
    counts = device_counts()
    found = ", ".join(kind if count == 1 else f"{count} {kind}s" for kind, count in counts.items())
    device = choose_device()
    print(f"device: {device}  (found: {found}; choose with --device)")
    for setting in glm.CPU_SETTINGS:
        print(f"{setting.name}: {setting.value or 'not set'}  ({setting.reason})")
    if device != "cpu":
        from glm.device.flash import print_choice
        from glm.device.probe import default_dtype, print_report, probe

        print_report(probe(device))
        dtype, reason = default_dtype(device)
        print(f"training dtype: {dtype}  ({reason})")
        print_choice(device)


if __name__ == "__main__":
    run_script(main)

"""Writes tests/checkpoint/legacy/*.bin with torch itself, in its form from before 1.6; the test says what they hold.

Needs torch (requirements-parity.txt): python tests/checkpoint/make_legacy_fixtures.py
"""

from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "legacy"


def tensors() -> OrderedDict:
    """Whole tensors, parts of one storage in other shapes, and types of all widths."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    half = torch.arange(8, dtype=torch.float16)
    return OrderedDict(
        base=base,
        rows=base[1:3],
        columns=base[:, 2:4],
        turned=base.t(),
        every_other=half[::2],
        half=half,
        bfloat16=torch.arange(1000, dtype=torch.float32).to(torch.bfloat16).reshape(10, 100),
        double=torch.full((2, 1, 3), 0.1, dtype=torch.float64),
        whole=torch.arange(-3, 3),
        small=torch.arange(5, dtype=torch.uint8),
        flags=torch.tensor([True, False, True]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.ones(3)),
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    torch.save(tensors(), FOLDER / "tensors.bin", _use_new_zipfile_serialization=False)
    layer = torch.nn.Linear(3, 2)  # its state has a _metadata attribute
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).reshape(2, 3))
        layer.bias.fill_(0.5)
    torch.save(layer.state_dict(), FOLDER / "module.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()

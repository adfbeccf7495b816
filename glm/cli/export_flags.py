"""Flags of the scripts that open an export: where it is, and what runs it. Imports no framework."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm.device.tuning import usable_cores

if TYPE_CHECKING:
    from glm.inference.exported import ExportOptions

# Fields of `ExportOptions` by flag, of scripts that have that flag.
_FIELDS = {"model_path": "path", "model_prefix": "prefix"}
_FIELDS |= {name: name for name in ("backend", "device", "device_id", "use_fp16", "cpu_threads", "kv_cache_size")}


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """--model_path, --model_prefix."""
    parser.add_argument(
        "--model_path", "--model_dir", dest="model_path", type=Path, required=True, help="directory of the export"
    )
    parser.add_argument("--model_prefix", default="glm", help="name of the export in that directory")


def add_runtime_arguments(parser: argparse._ActionsContainer, backends: Sequence[str]) -> None:
    """--backend, one of `backends`, and the device that it runs on."""
    parser.add_argument(
        "--backend",
        choices=backends,
        help="what runs it; default: the fastest that the export and this machine allow",
    )
    parser.add_argument("--device", help="npu, gpu or cpu; default: the best one present")
    parser.add_argument("--device_id", type=int, default=0, help="number of the GPU or NPU")
    parser.add_argument("--use_fp16", action="store_true", help="half precision, on GPU and NPU")
    parser.add_argument("--cpu_threads", type=int, default=usable_cores(), help="threads on the CPU")


def export_options(arguments: argparse.Namespace, **more: Any) -> ExportOptions:
    """What is opened, and how. A flag that was not given, or that a script does not have, is its field's default.

    Args:
        more: fields that no flag here names.
    """
    from glm.inference.exported import ExportOptions

    given = {field: getattr(arguments, flag, None) for flag, field in _FIELDS.items()}
    return ExportOptions(**{field: value for field, value in given.items() if value is not None}, **more)

"""Generation with an exported graph: what infer_generation.py runs. Imports neither PaddleNLP nor the model."""

import argparse

import numpy as np

from glm.datasets.batches import Batch
from glm.datasets.encoding import Encoder, open_encoder
from glm.device import check_dtype, choose_device
from glm.errors import UsageError
from glm.export_files import read_manifest
from glm.generation_config import CONTROL_DTYPES, GenerationConfig
from glm.probe import require_dtype
from glm.runtime import Runtime, RuntimeOptions, open_runtime


class GraphGenerator:
    """A graph in a runtime, with its tokenizer.

    Args:
        runtime: a loaded graph that `glm.export` wrote.
        encoder: turns texts into prompts.
    """

    def __init__(self, runtime: Runtime, encoder: Encoder):
        self.runtime, self.encoder = runtime, encoder

    @classmethod
    def open(cls, arguments: argparse.Namespace) -> "GraphGenerator":
        """Loads what the arguments of infer_generation.py name.

        Raises:
            GLMError: files that are missing or damaged, a backend that is not installed, a device without the dtype.
        """
        info = read_manifest(arguments.model_path, arguments.model_prefix, "paddle")
        device, number = _device(arguments.device, arguments.device_id)
        check_dtype("fp16" if arguments.use_fp16 else None, device, "the flag")
        check_dtype(info.dtype, device, "a graph exported in")
        if device == "npu":
            require_dtype(f"{device}:{number}", info.dtype, "a graph exported in")
        encoder = _encoder(arguments)
        encoder.check_fits(info.vocab_size, info.max_position)
        prefix = arguments.model_path / arguments.model_prefix
        options = RuntimeOptions(
            prefix.with_name(f"{prefix.name}.json"),
            prefix.with_name(f"{prefix.name}.pdiparams"),
            device,
            number,
            arguments.cpu_threads,
            arguments.use_fp16,
        )
        return cls(open_runtime(arguments.backend, options), encoder)

    def generate(self, batch: Batch, config: GenerationConfig) -> np.ndarray:
        """Token ids [B, t] for a batch of prompts."""
        control = {name: np.asarray(getattr(config, name), dtype) for name, dtype in CONTROL_DTYPES.items()}
        return self.runtime.run(batch | control)[0]


def _encoder(arguments: argparse.Namespace) -> Encoder:
    """The text side of the export, with room for source and text in `max_length`."""
    options = {"no_block_position": arguments.no_block_position, "plain": arguments.plain}
    encoder = open_encoder(arguments.model_path, (arguments.src_length, arguments.tgt_length), **options)
    if arguments.max_length is None:
        return encoder
    room = arguments.max_length - encoder.tgt_length
    if room < 4:
        raise UsageError(
            f"max_length {arguments.max_length} leaves {room} tokens for the source beside tgt_length "
            f"{encoder.tgt_length}; at least 4 are needed"
        )
    encoder.src_length = min(encoder.src_length, room)
    return encoder


def _device(wanted: str | None, device_id: int) -> tuple[str, int]:
    """Kind and number: `--device npu:1`, or `--device npu --device_id 1`."""
    device, _, number = choose_device(wanted).partition(":")
    if device != "cpu" and not number:
        number = choose_device(f"{device}:{device_id}").partition(":")[2]
    return device, int(number or 0)

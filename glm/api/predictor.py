"""Prediction with a model in Python: what predict_generation.py and `glm.pipeline` run."""

from collections.abc import Sequence
from pathlib import Path

import paddle

from glm.api.loading import AdapterPaths, check_family, load_merged_model, load_processor
from glm.checkpoint.file_names import CONFIG_NAME
from glm.checkpoint.side_files import remove_side_files
from glm.device.choice import check_dtype, choose_device
from glm.device.probe import require, require_dtype
from glm.distributed.processes import check_degrees, process_count, process_rank
from glm.distributed.tensor_parallel import start
from glm.inference.model_generator import ModelGenerator


class Predictor(ModelGenerator):
    """A model that is loaded from its directory, with its processor."""

    @classmethod
    def load(
        cls,
        name_or_path: str,
        lora_path: AdapterPaths = None,
        *,
        dtype: str | None = None,
        device: str | None = None,
        lengths: tuple[int | None, int | None] = (None, None),
        stop_strings: Sequence[str] = (),
        tensor_parallel_degree: int | None = None,
        **options,
    ) -> "Predictor":
        """A model directory or preset, on the devices of this launch.

        Args:
            lora_path: directory of an adapter to merge in, or several, in the order in which they are merged.
            dtype, device: the model's own, and the best one present, if not given.
            lengths, options, among them another tokenizer: of `glm.api.loading.load_processor`.
            stop_strings: see `TextGenerator`.
            tensor_parallel_degree: how many processes of the launch share a copy of the model; all, if not given.

        Raises:
            GLMError: a model, adapter or tokenizer that is missing, damaged or does not fit the others.
        """
        device = choose_device(device)
        check_dtype(dtype, device)
        require(device, "generation")
        require_dtype(device, dtype)
        degree = tensor_parallel_degree or process_count()
        check_degrees(degree, 1, device)
        paddle.set_device(device)
        start(degree)
        processor = load_processor(name_or_path, lengths, **options)
        model = load_merged_model(name_or_path, lora_path, dtype)
        check_family(processor, model.config)
        processor.check_fits(model.config.vocab_size, model.config.max_position)
        return cls(model, processor, stop_strings)

    def save(self, directory: Path) -> None:
        """The whole model as one checkpoint, with its tokenizer."""
        first = process_rank() == 0
        self.model.save_pretrained(directory, is_main_process=first, merge_tensor_parallel=True)
        if first:
            remove_side_files(directory, keep={CONFIG_NAME})
            self.processor.save_pretrained(directory)

"""Prediction with a model in Python: what predict_generation.py runs."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle

from glm.datasets.batches import Batch
from glm.datasets.encoding import Encoder
from glm.device import check_dtype, choose_device
from glm.generation import Prompt, StopTokens
from glm.generation_config import GenerationConfig
from glm.loading import load_encoder, load_merged_model
from glm.parallel import start
from glm.probe import require, require_dtype
from glm.processes import check_degrees, process_count, process_rank
from glm.tokenizers import StreamDecoder


class Predictor:
    """A model with its tokenizer.

    Args:
        model: a `GLMForCausalLM`.
        encoder: turns texts into prompts.
    """

    def __init__(self, model, encoder: Encoder):
        self.model, self.encoder = model, encoder
        self.stop = StopTokens.of(encoder)

    @classmethod
    def open(cls, arguments: argparse.Namespace) -> "Predictor":
        """Loads what the arguments of predict_generation.py name.

        Raises:
            GLMError: a model, adapter or tokenizer that is missing, damaged or does not fit the others.
        """
        device = choose_device(arguments.device)
        check_dtype(arguments.dtype, device)
        require(device, "generation")
        require_dtype(device, arguments.dtype)
        check_degrees(process_count(), 1, device)
        paddle.set_device(device)
        start(process_count())
        encoder = load_encoder(
            arguments.model_name_or_path,
            (arguments.src_length, arguments.tgt_length),
            no_block_position=arguments.no_block_position,
            plain=arguments.plain,
        )
        model = load_merged_model(arguments.model_name_or_path, arguments.lora_path, arguments.dtype)
        encoder.check_fits(model.config.vocab_size, model.config.max_position_embeddings)
        return cls(model, encoder)

    def generate(self, batch: Batch, config: GenerationConfig) -> np.ndarray:
        """Token ids [B, t] for a batch of prompts."""
        return self.model.generate(Prompt.of(batch), config, self.stop)[0].numpy()

    def stream(self, ids: list[int], config: GenerationConfig) -> Iterator[str]:
        """Pieces of the text that follows a prompt's ids, as soon as they are certain."""
        decoder = StreamDecoder(self.encoder.tokenizer)
        prompt = Prompt.of(self.encoder.prompt_batch([ids]))
        for token in self.model.stream(prompt, config, self.stop):
            yield decoder.put(int(token))
        yield decoder.end()

    def save(self, directory: Path) -> None:
        """The whole model as one checkpoint, with its tokenizer."""
        first = process_rank() == 0
        self.model.save_pretrained(directory, is_main_process=first, merge_tensor_parallel=True)
        if first:
            self.encoder.save_pretrained(directory)

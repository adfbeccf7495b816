"""Prediction with a model in Python: what predict_generation.py and `glm.pipeline` run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle

from glm.conversation import Conversation
from glm.datasets.batches import Batch
from glm.datasets.encoding import ChatEncoder, Encoder
from glm.device import check_dtype, choose_device
from glm.errors import UsageError
from glm.generation import Prompt, StopTokens
from glm.generation_config import GenerationConfig
from glm.loading import load_encoder, load_merged_model
from glm.parallel import start
from glm.probe import require, require_dtype
from glm.processes import check_degrees, process_count, process_rank


class Predictor:
    """A model with its text side.

    Args:
        model: a `GLMForCausalLM`.
        encoder: turns texts into prompts.
    """

    def __init__(self, model, encoder: Encoder):
        self.model, self.encoder = model, encoder
        self.stop = StopTokens.of(encoder)

    @classmethod
    def load(
        cls,
        name_or_path: str,
        lora_path: Path | None = None,
        *,
        dtype: str | None = None,
        device: str | None = None,
        lengths: tuple[int | None, int | None] = (None, None),
        **options,
    ) -> "Predictor":
        """A model directory or preset, on the devices of this launch.

        Args:
            lora_path: directory of an adapter to merge in.
            dtype, device: the model's own, and the best one present, if not given.
            lengths, options: of `glm.loading.load_encoder`.

        Raises:
            GLMError: a model, adapter or tokenizer that is missing, damaged or does not fit the others.
        """
        device = choose_device(device)
        check_dtype(dtype, device)
        require(device, "generation")
        require_dtype(device, dtype)
        check_degrees(process_count(), 1, device)
        paddle.set_device(device)
        start(process_count())
        encoder = load_encoder(name_or_path, lengths, **options)
        model = load_merged_model(name_or_path, lora_path, dtype)
        encoder.check_fits(model.config.vocab_size, model.config.max_position_embeddings)
        return cls(model, encoder)

    def generate(self, batch: Batch, config: GenerationConfig) -> np.ndarray:
        """Token ids [B, t] for a batch of prompts."""
        return self.model.generate(Prompt.of(batch), config, self.stop)[0].numpy()

    def stream(self, text: str, config: GenerationConfig) -> Iterator[str]:
        """Pieces of the text that follows a user's, as soon as they are certain."""
        prompt = Prompt.of(self.encoder.prompt_batch([self.encoder.text_prompt(text)]))
        return self.encoder.stream(map(int, self.model.stream(prompt, config, self.stop)))

    def conversation(self, config: GenerationConfig, system: str | None = None) -> Conversation:
        """A new conversation.

        Args:
            system: instructions before the first question.

        Raises:
            UsageError: the model holds no conversations, or the options choose beams.
        """
        if not isinstance(self.encoder, ChatEncoder):
            raise UsageError("a GLM (2021) model holds no conversations: leave out --chat")
        messages = [{"role": "system", "content": system}] if system else []
        return Conversation(self.model, self.encoder, config, messages)

    def save(self, directory: Path) -> None:
        """The whole model as one checkpoint, with its tokenizer."""
        first = process_rank() == 0
        self.model.save_pretrained(directory, is_main_process=first, merge_tensor_parallel=True)
        if first:
            self.encoder.save_pretrained(directory)

"""Generation with a model in Python."""

from collections.abc import Iterator, Sequence

from glm.encoding.processor import Processor
from glm.evaluation.likelihood.model import ModelScorer, model_scorer
from glm.generation.options import GenerationConfig
from glm.generation.search import Prompt, StopTokens
from glm.inference.generator import Ids, TextGenerator, in_batches, require_finite


class ModelGenerator(TextGenerator):
    """A model with its processor.

    Args:
        model: a `GLMForCausalLM`.
        processor, stop_strings: see `TextGenerator`.
    """

    def __init__(self, model, processor: Processor, stop_strings: Sequence[str] = ()):
        super().__init__(processor, stop_strings)
        self.model, self.stop = model, StopTokens.of(processor)

    def results(self, prompts: Sequence[Ids], config: GenerationConfig, batch_size: int) -> Iterator[tuple[int, Ids]]:
        def write(some: Sequence[Ids]) -> list[list[int]]:
            ids, scores = self.model.generate_batch(self._prompt(some), config, self.stop)
            require_finite(scores.numpy())
            return ids.tolist()

        return in_batches(prompts, batch_size, write, self.stop.eos_token_ids)

    def stream_tokens(self, ids: Ids, config: GenerationConfig) -> Iterator[int]:
        return map(int, self.model.stream(self._prompt([ids]), config, self.stop))

    def scorer(self, batch_size: int = 8, *, reuse: bool = True) -> ModelScorer:
        return model_scorer(self.model, self.processor, batch_size, reuse=reuse)

    def _prompt(self, prompts: Sequence[Ids]) -> Prompt:
        return Prompt.of(self.processor.prompt_batch(prompts))

"""A tiny model of every family with unequal prompts, and what the model itself writes after them."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
from dynamic_runtime import DynamicStepRuntime
from family_models import MODELS
from tiny_chat import KINDS, chat_model, processor_of_tiny
from tiny_glm import make_likely, random_pairs, tiny_model

from glm import GenerationConfig, GLMForCausalLM
from glm.encoding.batches import BlockPositions, prompt_batch
from glm.encoding.processor import GLMProcessor, Processor
from glm.engine import Engine, EngineOptions, StopTokens
from glm.generation.search import Prompt

NAMES = ("glm", *KINDS)
EXPERTS = ("glm4-moe", "glm4-moe-lite")  # with GLM-4-0414's vocabulary; the second one over latents
CAUSAL = ("chatglm2", "chatglm3", "glm4", "glm4-0414")
TEXTS = ("你好", "云溪桥建于1920年,长30米,是石桥。", "祥信塔", "a b c d e f")


@dataclass
class Case:
    """A model, its processor, prompts of different lengths, and stop tokens that come up now and then."""

    model: GLMForCausalLM
    processor: Processor
    prompts: list[list[int]]
    stop: StopTokens

    def engine(self, **options) -> Engine:
        return Engine(DynamicStepRuntime(self.model), self.processor.positions, self.stop, EngineOptions(**options))

    def wanted(self, config: GenerationConfig, prompts=None) -> tuple[list[list[int]], list[float]]:
        """Texts of `GLMForCausalLM.generate`, cut behind their ends, and their scores."""
        prompt = Prompt.of(self.processor.prompt_batch(prompts or self.prompts))
        tokens, scores = self.model.generate(prompt, config, self.stop)
        return [self.cut(row) for row in tokens.tolist()], scores.tolist()

    def cut(self, row: list[int]) -> list[int]:
        ends = (i + 1 for i, token in enumerate(row) if token in self.stop.eos_token_ids)
        return row[: next(ends, len(row))]


def case_of(name: str, tokenizer=None) -> Case:
    """Of `NAMES` or `EXPERTS`; the tokenizer is GLM's (2021)."""
    if name == "glm":
        processor, model = GLMProcessor(tokenizer, src_length=24, tgt_length=12), tiny_model(seed=5)
        pairs = random_pairs(tokenizer, [(3, 1), (14, 1), (7, 1), (1, 1)])
        prompts = [[*source, tokenizer.sop_token_id] for source, _ in pairs]
    else:
        sparse = name in EXPERTS
        model = tiny_model(seed=3, spread=0.4, family=name, **MODELS[name][1]) if sparse else chat_model(name)
        processor = processor_of_tiny("glm4-0414" if sparse else name)
        prompts = [processor.text_prompt(text) for text in TEXTS]
    assert len(set(map(len, prompts))) > 2
    case = Case(model, processor, prompts, StopTokens((), processor.tokenizer.pad_token_id))
    return replace(case, stop=replace(case.stop, eos_token_ids=tuple(sorted(often_ending(case)))))


def often_ending(case: Case) -> set[int]:
    """A share of the vocabulary, for random models hardly ever choose the real ends, and what greedy texts have."""
    texts, size = case.wanted(GenerationConfig(9))[0], case.model.config.vocab_size
    chosen = np.random.default_rng(1).choice(size, size // 9, replace=False)
    return {*map(int, chosen), texts[0][2], texts[1][5], texts[3][3]}


def few_tokens(seed: int) -> Case:
    """A model of twelve tokens that writes ends 1 and 2 often."""
    model, positions = tiny_model(seed=seed, spread=0.4, vocab_size=12), BlockPositions((5,))
    for token in (1, 2):
        make_likely(model.model.embed_tokens, model.model.norm, token, 2.0)
    draw = np.random.default_rng(seed)
    prompts = [[*draw.integers(6, 12, size).tolist(), 5, 0] for size in (2, 7, 4, 3, 9)]
    processor = SimpleNamespace(positions=positions, prompt_batch=lambda rows: prompt_batch(rows, positions, 3))
    return Case(model, processor, prompts, StopTokens((1, 2), 3))

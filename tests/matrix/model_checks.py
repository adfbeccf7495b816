"""What is compared of a model: its loss on a row and the tokens it writes, in one process or on several ranks."""

import paddle

from glm.api.predictor import Predictor
from glm.encoding.examples import Example
from glm.generation.options import GenerationConfig
from glm.inference.generator import TextGenerator

TEXTS = ("请介绍一下北京", "今天")
ANSWER = "今天很多大家都喜欢。"
LENGTHS = (48, 16)


@paddle.no_grad()
def loss_and_tokens(directory: str, device: str = "cpu") -> tuple[float, list[list[int]]]:
    """The loss of an answer, and 12 greedy tokens behind each of two unequal prompts."""
    predictor = Predictor.load(directory, device=device, dtype="float32", lengths=LENGTHS)
    processor = predictor.processor
    rows = [row for text in TEXTS for row in processor.rows(Example.of_pair(text, ANSWER))]
    batch = {name: paddle.to_tensor(array) for name, array in processor.training_batch(rows).items()}
    return float(predictor.model(**batch)), greedy_tokens(predictor)


def greedy_tokens(generator: TextGenerator) -> list[list[int]]:
    prompts = [generator.processor.text_prompt(text) for text in TEXTS]
    return generator.generate(prompts, GenerationConfig(max_length=12))

"""What a kind of model does unless its user, or its generation_config.json, says otherwise. Imports no framework."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelDefaults:
    """Lengths and options of a kind of model.

    Attributes:
        answer_lengths: `src_length` and `tgt_length` of prediction.
        gnmt_length: of `GenerationConfig`, as the model's reference implementation has it.
        drawn_from: top_k of sampling: the default of the library that the model was published for.
        evaluation: options of `GenerationConfig` in evaluation.
        label_smoothing: share of the target probability that is spread over the vocabulary in training.
    """

    answer_lengths: tuple[int, int]
    gnmt_length: bool
    drawn_from: int
    evaluation: Mapping[str, float]
    label_smoothing: float


GLM_2021 = ModelDefaults(
    answer_lengths=(200, 20),
    gnmt_length=True,
    drawn_from=50,  # PaddleNLP's GenerationConfig
    evaluation={"min_length": 55, "num_beams": 5, "length_penalty": 0.7, "no_repeat_ngram_size": 3},
    label_smoothing=0.1,
)
CHAT = ModelDefaults(
    answer_lengths=(7168, 1024),
    gnmt_length=False,
    drawn_from=50,  # transformers' GenerationConfig; the published chat() methods leave it at that
    evaluation={"min_length": 0},
    label_smoothing=0.0,
)

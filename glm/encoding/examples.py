"""One sequence to train on: what chat formats and encoders make, and batches are made of. Needs no framework."""

from dataclasses import dataclass

IGNORED = -100  # label of a token that is not trained
# What is counted while examples become rows, and said at the end.
EMPTY_ANSWERS = "empty answers, not trained"
NO_PLACE_FOR_THOUGHTS = "answers without their thoughts, for which the model has no place"
OPEN_THOUGHTS = "answers whose <think> has no </think>, trained as they are"
CUT_BY_TEMPLATE = "answers of which the chat template writes only a part"
NO_THOUGHTS = "answers without thoughts behind a prompt that begins some, trained with empty ones"


@dataclass(frozen=True)
class TrainingRow:
    """One sequence to train on.

    Attributes:
        ids: T token ids.
        trained: T flags; the model learns to write ids[i] where trained[i].
        prefix_length: ids at the start that all see each other (GLM, ChatGLM-6B: up to the mask); 0 if attention is
            causal.
        cut: whether the lengths left something out.
    """

    ids: list[int]
    trained: list[bool]
    prefix_length: int = 0
    cut: bool = False

    @property
    def labels(self) -> list[int]:
        """T labels beside `ids`, not shifted: IGNORED where nothing is trained."""
        return [index if trained else IGNORED for index, trained in zip(self.ids, self.trained, strict=True)]

    @property
    def trained_tokens(self) -> int:
        """How many tokens are trained; the first of a row never is."""
        return sum(self.trained[1:])

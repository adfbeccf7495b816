"""What is scored, what comes out, and who scores. Imports no framework."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from glm.errors import UsageError

if TYPE_CHECKING:
    from glm.evaluation.likelihood.tokens import RowEncoder, TokenRow


@dataclass(frozen=True)
class Row:
    """A text and what may follow it.

    Attributes:
        context: whole text before the targets, `shared` first; "" is the beginning of a text.
        targets: texts, none of them empty.
        shared: leading part of `context` that many rows begin with, a header and shots; read once for all rows beside
            each other that have it, where attention is causal.
        alone: whether each target is encoded by itself, not with the text before it, as benchmarks do that compare the
            tokens of letters.
    """

    context: str
    targets: tuple[str, ...]
    shared: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Likelihood:
    """How likely a target is.

    Attributes:
        log_likelihood: natural logarithm of its probability behind the context, the sum over its tokens.
        tokens: of the target.
        greedy: whether greedy search would have written it.
    """

    log_likelihood: float
    tokens: int
    greedy: bool


class ContextTooLong(UsageError):
    """A context and a target that need more positions than the model has.

    Attributes:
        needed: the largest position of their tokens.
        most: the model's largest.
    """

    def __init__(self, needed: int, most: int, text: str):
        super().__init__(
            f"the text {text!r:.60} and what follows it need position {needed}, and the model ends at {most}: "
            "shorten it"
        )
        self.needed, self.most = needed, most


class Scorer(Protocol):
    """Scores what may follow texts.

    Attributes:
        tokens_read: real tokens that went through the model so far, padding left out.
        window: so many rows of one `shared` text are batched among each other; the last bits of a number depend on
            the other rows of its window, so who goes on later begins at a multiple of it.
        encode: makes ids of a row.
    """

    tokens_read: int
    window: int
    encode: "RowEncoder"

    def __call__(self, rows: Sequence[Row]) -> Iterator[tuple[Likelihood, ...]]:
        """A likelihood for each target of each row, in the rows' order, as soon as they are known.

        Raises:
            ContextTooLong: as `check`. UsageError: a target without tokens, or one whose first token begins in its
                context.
        """

    def score(self, rows: Sequence["TokenRow"]) -> list[tuple[Likelihood, ...]]:
        """The same of rows that are ids already, a window of them at most; they share what all say that they share.

        Raises:
            GLMError: the model's numbers are not finite.
        """

    def check(self, row: Row) -> None:
        """Raises ContextTooLong where a row does not fit into the model."""

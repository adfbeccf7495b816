"""How prompts are read: which is next, how much of it at once, how likely its tokens are. numpy only."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from glm.encoding.batches import Positions
from glm.engine.pace import Pace
from glm.engine.requests import EngineOptions, TokenLogprobs
from glm.engine.sequence import SequenceState
from glm.engine.slots import Slots

MOST_PASSED = 8  # parts of other prompts that a prompt waits for; then it is next, whatever is left of it
SCORED = 64  # tokens of a prompt whose logits all come out at once: 39 MB of GLM-4's vocabulary


class PromptReader:
    """Reads prompts into their slots.

    Args:
        slots: their cache, and its runtime.
        positions: where tokens stand, and how a prompt is read.
        options: parts of prompts.
        pace: learns how fast prompts are read.
        counts: of prompt_tokens and reused_tokens.
        clock: seconds, rising.

    Attributes:
        under_way: the request of which the runtime is reading a part, for other threads to see.
    """

    def __init__(
        self,
        slots: Slots,
        positions: Positions,
        options: EngineOptions,
        pace: Pace,
        counts: Counter[str],
        clock: Callable[[], float],
    ):
        self.slots, self.positions, self.options, self.clock = slots, positions, options, clock
        self._pace, self._counts = pace, counts
        self.under_way: int | None = None

    def next_of(self, reading: Sequence[SequenceState]) -> SequenceState:
        """The prompt of which the least is left, so that a short one does not wait for a long one; but none waits for
        more than `MOST_PASSED` parts of others, and those that do so at once. One that is scored takes nothing from
        others, so the same prompts wait for what it reads.
        """
        scored = {tuple(sequence.request.ids) for sequence in reading if sequence.scored}
        ready = [each for each in reading if each.scored or not scored or tuple(each.request.ids) not in scored]
        longest = max(ready, key=lambda sequence: sequence.passed)
        overdue = longest.passed >= MOST_PASSED
        chosen = longest if overdue else min(ready, key=lambda sequence: sequence.left)
        for sequence in reading:
            sequence.passed += 1
        chosen.passed = 0
        return chosen

    def holds_up(self, sequence: SequenceState) -> bool:
        """Whether a prompt cannot be read in parts, and takes long."""
        return bool(sequence.prefix_length) and self._pace.is_long(len(sequence.request.ids))

    def read(self, sequence: SequenceState, decoding: bool) -> tuple[np.ndarray, tuple[TokenLogprobs | None, ...]]:
        """Reads the next part of a prompt.

        Args:
            decoding: whether texts stand still meanwhile.

        Returns:
            Logits [V] of what follows the part; log-probabilities of the prompt's tokens, where they are asked for.

        Raises:
            InterruptedReadError: the runtime was interrupted; nothing of the part counts as read.
        """
        if sequence.begun is None:
            self._begin(sequence)
        ids, held = sequence.request.ids, self._held(sequence)
        part = slice(held, min(held + self._size(sequence, decoding), len(ids)))
        begun, self.under_way = self.clock(), sequence.id
        try:
            logits_V, scores = self._call(sequence, part)
        finally:
            self.under_way = None
        now = self.clock()
        self._pace.was_read(part.stop - held, now - begun)
        sequence.read = part.stop
        sequence.ready = None if sequence.left else now
        self.slots.note(int(sequence.slots[0]), ids[: part.stop], keep=not sequence.prefix_length)
        return logits_V, scores

    def _begin(self, sequence: SequenceState) -> None:
        ids = sequence.request.ids
        sequence.begun = self.clock()
        sequence.positions_PS = self.positions.of(ids, sequence.prefix_length)
        self._counts["prompt_tokens"] += len(ids)

    def _held(self, sequence: SequenceState) -> int:
        """Leading tokens that need not be read again. Whatever another prompt has read meanwhile counts: of several
        choices of one prompt all but the first wait.
        """
        if sequence.scored:
            return sequence.read
        held = self.slots.extend(int(sequence.slots[0]), sequence.request.ids)
        sequence.reused += held - sequence.read
        self._counts["reused_tokens"] += held - sequence.read
        sequence.read = held  # an interrupted part is read again, and counts what it found once
        return held

    def _size(self, sequence: SequenceState, decoding: bool) -> int:
        """Most tokens of the next part."""
        if sequence.prefix_length:
            return len(sequence.request.ids)
        size = self._pace.tokens(decoding and self.options.interleave)
        if not sequence.scored:
            return size
        return min(size, SCORED) if self.slots.runtime.any_columns else 1

    def _call(self, sequence: SequenceState, part: slice) -> tuple[np.ndarray, tuple[TokenLogprobs | None, ...]]:
        ids_T, positions_PT = sequence.request.ids[part], sequence.positions_PS[:, part]
        where = int(sequence.slots[0]), ids_T, positions_PT, part.start, sequence.prefix_length
        if not sequence.scored:
            return self.slots.call("prefill", *where), ()
        logits_TV = self.slots.call("read", *where, range(len(ids_T)))
        return logits_TV[-1], sequence.scores(logits_TV)

"""How much of a prompt is read between two steps, so that texts that are being written do not stand still for long."""

_LEAST = 16  # tokens: a chunk takes about as long as a step up to there, so less would only take more calls
_LONG = 5  # pauses that a prompt may take that cannot be read in parts
_NEWEST = 0.5  # share of the newest chunk in the mean


class Pace:
    """Learns how fast prompts are read.

    Args:
        chunk: most tokens of a prompt that are read at once.
        pause: seconds that a chunk may take while texts go on, or two steps if these are longer; None = any time.

    Attributes:
        rate: tokens of a prompt a second; 0 before the first chunk.
        step, step_alone: seconds of a step, and of one of a single text; 0 before the first.
    """

    def __init__(self, chunk: int, pause: float | None):
        self.chunk, self.pause = chunk, pause
        self.rate = self.step = self.step_alone = 0.0

    def tokens(self, decoding: bool) -> int:
        """Most tokens of the next chunk."""
        if self.pause is None or not decoding:
            return self.chunk
        allowed = max(self.pause, 2 * self.step) * self.rate
        return min(self.chunk, max(_LEAST, int(allowed)))

    def is_long(self, tokens: int) -> bool:
        """Whether reading so many tokens at once would let texts stand still for long, as far as is known."""
        if self.pause is None or not self.rate:
            return False
        return tokens / self.rate > _LONG * max(self.pause, 2 * self.step)

    def was_read(self, tokens: int, seconds: float) -> None:
        """So many tokens of a prompt took so long. A short end of one says more of the call than of its tokens."""
        if tokens < _LEAST:
            return
        self.rate = _mean(self.rate, tokens / max(seconds, 1e-9))

    def was_stepped(self, seconds: float, texts: int) -> None:
        """A step of so many texts took so long."""
        self.step = _mean(self.step, seconds)
        if texts == 1:
            self.step_alone = _mean(self.step_alone, seconds)


def _mean(so_far: float, newest: float) -> float:
    return _NEWEST * newest + (1 - _NEWEST) * so_far if so_far else newest

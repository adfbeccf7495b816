"""Times of a server's answers, by vLLM's definitions (vllm/benchmarks/serve.py, calculate_metrics).

    TTFT  from the sending of a request to its first chunk of text
    E2EL  from the sending to the last chunk
    TPOT  (E2EL - TTFT) / (output tokens - 1), of answers of more than one token
    ITL   every gap between two chunks of text of one answer, those of all answers together

Throughputs are over the whole duration, from the first sending to the last end. Output tokens are what `usage` says: a
chunk may hold several. Times are seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

SHARES = (50, 99)
KINDS = ("ttft", "tpot", "itl", "e2el")


@dataclass
class Reply:
    """What became of one request.

    Attributes:
        sent: when it was sent. chunks: when each chunk of text came. ended: when the last chunk came.
        prompt_tokens, output_tokens: as `usage` has them.
        error: why there is no whole answer.
    """

    sent: float
    chunks: list[float] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None

    @property
    def ttft(self) -> float:
        return self.chunks[0] - self.sent

    @property
    def e2el(self) -> float:
        return self.ended - self.sent

    @property
    def tpot(self) -> float | None:
        """None for an answer of one token."""
        return (self.e2el - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def gaps(self) -> list[float]:
        return np.diff(self.chunks).tolist()

    def meets(self, limits: Mapping[str, float]) -> bool:
        """Whether no time is above its limit."""
        return all((getattr(self, name) or 0.0) <= limit for name, limit in limits.items())


@dataclass(frozen=True)
class Pause:
    """What a long prompt does to those who wait for other texts.

    Attributes:
        usual: median gap between chunks outside of the windows in which a long prompt is read.
        longest: longest gap that touches such a window.
        short_ttft, short_ttft_outside: medians of the other requests, sent inside of a window and outside; None where
            there were none.
        long_ttft: of the long prompts.
    """

    usual: float
    longest: float
    short_ttft: float | None
    short_ttft_outside: float | None
    long_ttft: float


def summarize(replies: Sequence[Reply], limits: Mapping[str, float] | None = None) -> dict:
    """Throughputs, and of each time mean and percentiles, as JSON's types; times that nobody has are left out.

    Args:
        limits: of `goodput`, by the names of KINDS but itl.
    """
    good = [reply for reply in replies if reply.error is None]
    failed = [reply.error for reply in replies if reply.error is not None]
    found: dict = {"requests": len(good), "failed": len(failed)} | ({"error": failed[0]} if failed else {})
    if not good:
        return found
    seconds = max(reply.ended for reply in good) - min(reply.sent for reply in replies)
    tokens = sum(reply.output_tokens for reply in good)
    found |= {
        "seconds": seconds,
        "prompt_tokens": sum(reply.prompt_tokens for reply in good),
        "output_tokens": tokens,
        "request_throughput": len(good) / seconds,
        "output_throughput": tokens / seconds,
    }
    if limits:
        found["goodput"] = sum(reply.meets(limits) for reply in good) / seconds
    times = {
        "ttft": [reply.ttft for reply in good],
        "tpot": [reply.tpot for reply in good if reply.tpot is not None],
        "itl": [gap for reply in good for gap in reply.gaps],
        "e2el": [reply.e2el for reply in good],
    }
    return found | {kind: spread(values) for kind, values in times.items() if values}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, and percentiles by linear interpolation."""
    shares = {f"p{share}": float(value) for share, value in zip(SHARES, np.percentile(values, SHARES), strict=True)}
    return {"mean": float(np.mean(values))} | shares


def pause_of(replies: Sequence[Reply], long: Sequence[Reply]) -> Pause | None:
    """How long the texts of `replies` stood still while the prompts of `long` were read; None where nothing was read,
    or nobody wrote meanwhile.
    """
    windows = [(reply.sent, reply.chunks[0]) for reply in long if reply.chunks]

    def touches(begin: float, end: float) -> bool:
        return any(begin < window_end and end > window_begin for window_begin, window_end in windows)

    spans = [span for reply in replies for span in zip(reply.chunks, reply.chunks[1:], strict=False)]
    inside = [end - begin for begin, end in spans if touches(begin, end)]
    outside = [end - begin for begin, end in spans if not touches(begin, end)]
    if not inside or not outside:
        return None
    answered = [reply for reply in replies if reply.chunks]
    short = {within: [r.ttft for r in answered if touches(r.sent, r.sent) is within] for within in (True, False)}
    return Pause(
        usual=median(outside),
        longest=max(inside),
        short_ttft=median(short[True]) if short[True] else None,
        short_ttft_outside=median(short[False]) if short[False] else None,
        long_ttft=median(end - begin for begin, end in windows),
    )

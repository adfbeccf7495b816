"""Memory of the language-model head and its loss (glm/model/loss.py, head_loss.py)."""

from glm.config.fields import ConfigFields
from glm.memory.run import FP32, Run
from glm.memory.sizes import Sizes


def head_memory(config: ConfigFields, run: Run, sizes: Sizes) -> tuple[int, int]:
    """What the head keeps for the backward pass, and what comes on top when its loss or gradient needs most."""
    # Input of the last norm, and hidden states of the trained tokens.
    states = sizes.own * sizes.wide + sizes.trained * config.hidden_size * sizes.half
    cast = sizes.head * sizes.half if run.mixed else 0
    if sizes.chunk < sizes.logits:
        return states, cast + max(_hidden(config, sizes) + _chunk_loss(config, sizes), _chunk_gradient(run, sizes))
    return states + cast + sizes.logits * FP32, max(_loss(config, run, sizes), _gradient(run, sizes))


def _hidden(config: ConfigFields, sizes: Sizes) -> int:
    """Forward, the last norm's output or the gathered one; and the trained tokens again, which several ranks copy."""
    copy = sizes.trained * config.hidden_size if config.tensor_parallel_degree > 1 else 0
    return (sizes.hidden + copy) * sizes.half


def _loss(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """Beside the probabilities: forward the logits and what one rank's softmax or a cast makes of them, backward two
    more of their size.
    """
    made = FP32 if sizes.half < FP32 or config.tensor_parallel_degree > 1 else 0
    forward = (0 if run.recompute else sizes.bias) + _hidden(config, sizes) + sizes.logits * (sizes.half + made)
    return max(forward, 2 * sizes.logits * FP32)


def _gradient(run: Run, sizes: Sizes) -> int:
    """Beside the logits' gradient, which takes the place of the probabilities, that of the head's weight."""
    return sizes.head * run.weight_size if run.train == "full" else 0


def _chunk_loss(config: ConfigFields, sizes: Sizes) -> int:
    """Logits and probabilities; of a padded vocabulary the logits without padding, and those of all tokens besides."""
    copies = 4 if sizes.vocabulary * config.tensor_parallel_degree > config.vocab_size else 2
    return sizes.chunk * (copies * FP32 + (sizes.half if sizes.half < FP32 else 0))


def _chunk_gradient(run: Run, sizes: Sizes) -> int:
    """Probabilities and two of their gradients; then the weight's gradient so far, and what the chunk adds to it."""
    low = sizes.half if sizes.half < FP32 else 0
    logits = 3 * sizes.chunk * FP32
    if run.train != "full":
        return logits
    added = sizes.head * (FP32 + low) + sizes.chunk * (FP32 + low)
    return sizes.head * FP32 + max(logits, added)

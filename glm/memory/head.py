"""Memory of the language-model head and its loss (glm/model/loss.py, head_loss.py)."""

from glm.config.fields import ConfigFields
from glm.memory.run import FP32, Run
from glm.memory.sizes import Sizes


def head_memory(config: ConfigFields, run: Run, sizes: Sizes) -> tuple[int, int]:
    """What the head keeps for the backward pass, and what comes on top when its loss or gradient needs most."""
    # Input of the last norm, and hidden states of the trained tokens.
    trained = sizes.trained * config.hidden_size * sizes.half
    states = sizes.own * sizes.wide + trained
    cast = sizes.head * sizes.half if run.mixed else 0
    if sizes.chunk < sizes.logits:
        forward = _hidden(config, sizes)
        # Gradients of the hidden states are kept from chunk to chunk; those of a frozen head are made forward.
        gradient = trained + (forward if run.train == "lora" else 0) + _chunk_gradient(run, sizes)
        return states, cast + max(forward + _chunk_loss(sizes), gradient)
    return states + cast + sizes.logits * FP32, max(_loss(config, run, sizes), _gradient(run, sizes))


def _hidden(config: ConfigFields, sizes: Sizes) -> int:
    """Forward, the last norm's output or the gathered one; and the trained tokens again, which several ranks copy."""
    copy = sizes.trained * config.hidden_size if sizes.shared else 0
    return (sizes.hidden + copy) * sizes.half


def _loss(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """Beside the probabilities: forward the logits and what is made of them, backward two more of their size."""
    forward = (0 if run.recompute else sizes.bias) + _hidden(config, sizes)
    forward += sizes.logits * (sizes.half + _made(sizes) * FP32)
    return max(forward, (2 + sizes.pads) * sizes.logits * FP32)


def _made(sizes: Sizes) -> int:
    """Tensors in float32 that a loss makes of the logits beside the probabilities: a cast, or the probabilities of all
    ranks; and of a rank with padding, which needs most, the logits without it.
    """
    return (sizes.half < FP32 or sizes.shared) + sizes.pads


def _gradient(run: Run, sizes: Sizes) -> int:
    """Beside the logits' gradient, which takes the place of the probabilities, that of the head's weight."""
    return sizes.head * run.weight_size if run.train == "full" else 0


def _chunk_loss(sizes: Sizes) -> int:
    """Logits, probabilities, and what is made on the way."""
    return sizes.chunk * (sizes.half + (1 + _made(sizes)) * FP32)


def _chunk_gradient(run: Run, sizes: Sizes) -> int:
    """Probabilities and two of their gradients, with padding a third tensor; then the weight's gradient so far, and
    what the chunk adds to it.
    """
    low = sizes.half if sizes.half < FP32 else 0
    logits = (3 + sizes.pads) * sizes.chunk * FP32
    if run.train != "full":
        return logits
    added = sizes.head * (FP32 + low) + sizes.chunk * (FP32 + low)
    return sizes.head * FP32 + max(logits, added)

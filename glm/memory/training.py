"""Memory of a training step beside weights, gradients and optimizer.

What is kept for the backward pass follows glm/model/layers.py, positions.py, attention.py and loss.py tensor by tensor.
"""

from dataclasses import dataclass
from math import prod

from glm.config.fields import ConfigFields
from glm.config.shapes import ADAPTED, block_shapes
from glm.distributed.plan import padded
from glm.memory.run import FP32, SIZES, Run

# Share of a head's dimensions that rotary positions rotate, in float32.
ROTARY = {"learned_2d": lambda config: 0, "rotary_2d": lambda config: 1}
ROTARY["partial_rotary"] = lambda config: config.partial_rotary_factor
KEEPS_PAIRS = {"rotary_2d"}  # the other's own gradient needs the angles only


@dataclass(frozen=True)
class _MLP:
    """Tensors [B·T, inner] of an MLP: linear layers that read its input, and what is kept for them.

    Attributes:
        inputs: layers that read the block's second norm.
        kept: by the activation and by the last layer.
        backward: alive when its largest gradients are.
        stream: tensors [B·T, H] alive then.
    """

    inputs: int
    kept: int
    backward: int
    stream: int


MLPS = {
    "plain": _MLP(inputs=1, kept=2, backward=3, stream=4),
    "gated": _MLP(inputs=2, kept=4, backward=6, stream=2),
}


@dataclass(frozen=True)
class _Block:
    """Bytes that one block of a training batch keeps, by what they are needed for.

    Attributes:
        start: the block's input, which the first norm keeps.
        linear: what attention and its linear layers keep.
        second: what the norm before the MLP and the MLP's first layers keep.
        behind: what the norms behind attention and MLP keep.
        scores: softmax and dropout of the attention weights.
        mlp: inputs and outputs of the activation.
        casts: half-precision copies of the weights, at O1.
    """

    start: int
    linear: int
    second: int
    behind: int
    scores: int
    mlp: int
    casts: int

    @property
    def all(self) -> int:
        return self.start + self.linear + self.second + self.behind + self.scores + self.mlp + self.casts


class _Sizes:
    """Bytes of the tensors of a training batch: [B·T, H], [B·T, N·D / degree], …"""

    def __init__(self, config: ConfigFields, run: Run):
        degree, tokens = config.tensor_parallel_degree, run.batch_size * run.row_length
        self.half = SIZES[run.dtype]  # input of a matmul
        self.wide = FP32 if run.mixed else self.half  # residual stream, and what a bias was added to
        self.hidden = tokens * config.hidden_size
        # Of the residual stream and the norms, which sequence parallelism divides.
        self.own = -(-run.row_length // degree) * run.batch_size * config.hidden_size
        self.own = self.own if config.sequence_parallel else self.hidden
        self.queries, self.keys = (
            tokens * heads * config.head_dim // degree
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.inner = tokens * config.intermediate_size // degree
        self.scores = config.num_attention_heads // degree * run.batch_size * run.row_length**2
        self.bias = bias_size(config, run, run.row_length)
        self.rotary = ROTARY[config.position_type](config)
        self.keeps_pairs = config.position_type in KEEPS_PAIRS
        self.tables = int(tokens * config.head_dim * self.rotary) * FP32  # cosines and sines
        self.trained = run.batch_size * run.tgt_length
        self.vocabulary = padded(config.vocab_size, degree) // degree
        self.logits = self.trained * self.vocabulary

    @property
    def pairs(self) -> int:
        return int((self.queries + self.keys) * self.rotary) * FP32 if self.keeps_pairs else 0


def bias_size(config: ConfigFields, run: Run, width: int) -> int:
    """Bytes of what is added to the scores; query heads that share a key/value head have a copy each (attention.py)."""
    return run.batch_size * width**2 * FP32 * config.queries_per_kv


def _block(config: ConfigFields, run: Run, sizes: _Sizes) -> _Block:
    half, mixed = sizes.half, run.mixed
    # Each of q, k and v keeps its input. It is one tensor, unless a cast or a collective makes a copy for each.
    # Sequence parallelism keeps one for all, and makes one cast.
    apart = (mixed or config.tensor_parallel_degree > 1) and not config.sequence_parallel
    mlp = MLPS[config.mlp_type]
    stream = sizes.own * sizes.wide  # a norm keeps its input
    read, read_again = (sizes.own * half * (count if apart else 1) for count in (len(ADAPTED), mlp.inputs))
    masks = 2 * sizes.own if config.hidden_dropout else 0
    adapters = len(ADAPTED) * run.batch_size * run.row_length * run.r * half if run.train == "lora" else 0
    # The softmax is float32 and keeps its output; dropout keeps a byte each, the matmul what comes out of it.
    score = FP32 + (half + 1 if config.attention_dropout else half if half < FP32 else 0)
    activation = sizes.wide if config.linear_bias else half  # what it reads
    return _Block(
        start=stream,
        # Queries and keys are float32 where the scores are computed; values and what they add up to are not.
        linear=read + (sizes.queries + sizes.keys) * (FP32 + half) + sizes.pairs + masks + adapters,
        second=stream + read_again,
        behind=2 * stream if config.post_norms else 0,
        scores=sizes.scores * score,
        mlp=sizes.inner * (activation + (mlp.kept - 1) * half),
        casts=_matrices(config) // config.tensor_parallel_degree * half if mixed else 0,
    )


def _matrices(config: ConfigFields) -> int:
    return sum(prod(shape) for shape in block_shapes(config).values() if len(shape) == 2)


def training(config: ConfigFields, run: Run) -> tuple[int, int]:
    """Kept activations, and what comes on top when a step needs most, which is at one of six moments."""
    sizes = _Sizes(config, run)
    block = _block(config, run, sizes)
    earlier = config.num_hidden_layers - 1
    # Recomputed blocks get their input.
    again = sizes.own * sizes.wide
    before = earlier * (again if run.recompute else block.all)  # kept while the last block runs backward
    masks = sizes.own if config.embedding_dropout else 0
    before += masks + sizes.tables + (sizes.bias if run.recompute else 0)
    kept = before + (again if run.recompute else block.all)
    head = sizes.own * sizes.wide + sizes.trained * config.hidden_size * sizes.half + sizes.logits * FP32
    head += sizes.vocabulary * config.hidden_size * sizes.half if run.mixed else 0
    moments = (
        kept + head + _loss(run, sizes),
        kept + head + _head_gradient(config, run, sizes),
        before + _mlp_backward(config, run, sizes, block),
        before + _attention_backward(config, run, sizes, block),
        before + _tokens_backward(config, run, sizes, block),
        2 * _waiting_gradient(config, run, sizes),  # of the head and of the look-up, before they are added
    )
    activations = before + block.all + (0 if run.recompute else head)
    return activations, max(0, max(moments) - activations)


def _loss(run: Run, sizes: _Sizes) -> int:
    """Beside the probabilities: forward the logits (float32 copies of half ones), backward two more of their size."""
    logits = sizes.logits * (sizes.half + (FP32 if sizes.half < FP32 else 0))
    forward = (0 if run.recompute else sizes.bias) + sizes.hidden * sizes.half + logits
    return max(forward, 2 * sizes.logits * FP32)


def _head_gradient(config: ConfigFields, run: Run, sizes: _Sizes) -> int:
    """Beside the logits' gradient, which takes the place of the probabilities, that of the head's weight."""
    return sizes.vocabulary * config.hidden_size * run.weight_size if run.train == "full" else 0


def _mlp_backward(config: ConfigFields, run: Run, sizes: _Sizes, block: _Block) -> int:
    """The last block when the activation's gradient is computed: what it read, and gradients of all sides."""
    weight = config.intermediate_size * config.hidden_size // config.tensor_parallel_degree * run.weight_size
    gradients = _waiting_gradient(config, run, sizes) + (weight if run.train == "full" else 0)
    mlp, size = MLPS[config.mlp_type], sizes.wide if config.linear_bias else sizes.half
    kept = block.start + block.linear + block.second + block.behind // 2 + block.scores + block.casts
    return kept + mlp.backward * sizes.inner * size + mlp.stream * sizes.own * sizes.wide + gradients


def _attention_backward(config: ConfigFields, run: Run, sizes: _Sizes, block: _Block) -> int:
    """The last block when the softmax runs backward: output and two gradients in float32, and the dropout's mask."""
    scores = sizes.scores * (3 * FP32 + (1 if config.attention_dropout else 0))
    # Recompute has the block's output and a gradient of its size besides.
    stream = 2 * sizes.own * sizes.wide if run.recompute else 0
    around = block.start + block.linear + block.casts + stream
    return around + scores + _waiting_gradient(config, run, sizes)


def _tokens_backward(config: ConfigFields, run: Run, sizes: _Sizes, block: _Block) -> int:
    """Under sequence parallelism the last block when a gradient [B, T, H] of all tokens is there: behind the MLP, of
    several rows in two orders; or of its input, and a second one that is added to it.
    """
    if not config.sequence_parallel:
        return 0
    whole, inner = sizes.hidden * sizes.half, sizes.inner * sizes.half
    weight = config.intermediate_size * config.hidden_size // config.tensor_parallel_degree * run.weight_size
    weight, inputs = weight if run.train == "full" else 0, MLPS[config.mlp_type].inputs
    # Recompute has the block's output besides.
    stream = (3 if run.recompute else 2) * sizes.own * sizes.wide
    behind = max(whole * min(run.batch_size, 2), whole + inner + weight)
    before = inputs * inner + weight + max(2 * whole, whole + inputs * weight)
    return block.all + max(behind, before - block.mlp) + stream + _waiting_gradient(config, run, sizes)


def _waiting_gradient(config: ConfigFields, run: Run, sizes: _Sizes) -> int:
    """The head's gradient of a tied embedding, which waits for the look-up's until the end of the backward pass."""
    if not config.tie_word_embeddings:
        return 0
    return sizes.vocabulary * config.hidden_size * run.weight_size if run.train == "full" else 0

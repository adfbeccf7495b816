"""Memory of a training step beside weights, gradients and optimizer.

What is kept for the backward pass follows glm/model/layers.py, positions.py, attention.py and loss.py tensor by tensor.
"""

from dataclasses import dataclass
from math import prod

from glm.config.fields import ConfigFields
from glm.config.shapes import ADAPTED, block_shapes
from glm.memory.head import head_memory
from glm.memory.run import FP32, Run
from glm.memory.sizes import Sizes


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


def _block(config: ConfigFields, run: Run, sizes: Sizes) -> _Block:
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
    own = sizes.wide if config.attention_bias else half  # behind a bias, mixed precision leaves float32
    scored = 2 * own if sizes.in_blocks else FP32 + half
    return _Block(
        start=stream,
        # Queries and keys are float32 where all scores are computed; values and what they add up to are not.
        linear=read + (sizes.queries + sizes.keys) * scored + sizes.pairs + masks + adapters,
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
    sizes = Sizes(config, run)
    block = _block(config, run, sizes)
    earlier = config.num_hidden_layers - 1
    # Recomputed blocks get their input.
    again = sizes.own * sizes.wide
    before = earlier * (again if run.recompute else block.all)  # kept while the last block runs backward
    masks = sizes.own if config.embedding_dropout else 0
    before += masks + sizes.tables + (sizes.bias if run.recompute else 0)
    kept = before + (again if run.recompute else block.all)
    head, workspace = head_memory(config, run, sizes)
    moments = (
        kept + head + workspace,
        before + _mlp_backward(config, run, sizes, block),
        before + _attention_backward(config, run, sizes, block),
        before + _tokens_backward(config, run, sizes, block),
        2 * _waiting_gradient(config, run, sizes),  # of the head and of the look-up, before they are added
    )
    activations = before + block.all + (0 if run.recompute else head)
    return activations, max(0, max(moments) - activations)


def _mlp_backward(config: ConfigFields, run: Run, sizes: Sizes, block: _Block) -> int:
    """The last block when the activation's gradient is computed: what it read, and gradients of all sides."""
    weight = config.intermediate_size * config.hidden_size // config.tensor_parallel_degree * run.weight_size
    gradients = _waiting_gradient(config, run, sizes) + (weight if run.train == "full" else 0)
    mlp, size = MLPS[config.mlp_type], sizes.wide if config.linear_bias else sizes.half
    kept = block.start + block.linear + block.second + block.behind // 2 + block.scores + block.casts
    return kept + mlp.backward * sizes.inner * size + mlp.stream * sizes.own * sizes.wide + gradients


def _attention_backward(config: ConfigFields, run: Run, sizes: Sizes, block: _Block) -> int:
    """The last block when the softmax runs backward."""
    scores = _block_backward(config, sizes) if sizes.in_blocks else _dense_backward(config, sizes)
    # Recompute has the block's output and a gradient of its size besides; in blocks, the stream's gradient counts.
    stream = (2 * run.recompute + sizes.in_blocks) * sizes.own * sizes.wide
    around = block.start + block.linear + block.casts + stream
    return around + scores + _waiting_gradient(config, run, sizes)


def _dense_backward(config: ConfigFields, sizes: Sizes) -> int:
    """Output and two gradients in float32, and the dropout's mask."""
    return sizes.scores * (3 * FP32 + (1 if config.attention_dropout else 0))


def _block_backward(config: ConfigFields, sizes: Sizes) -> int:
    """The last block of queries of the last row: the softmax and its gradient, and what dropout kept."""
    half, low = sizes.half, sizes.half if sizes.half < FP32 else 0
    scores = sizes.block * (2 * FP32 + low + (FP32 if config.attention_dropout else 0))
    queries, keys = sizes.queries // sizes.rows, sizes.keys // sizes.rows
    # Queries, context, its gradient and that of the queries; keys in float32, values; gradients of both, twice.
    row = 4 * queries * half + keys * (FP32 + low + half + 4 * FP32)
    earlier = (sizes.rows - 1) * (queries * half + 2 * keys * FP32)
    return sizes.queries * half + earlier + row + scores


def _tokens_backward(config: ConfigFields, run: Run, sizes: Sizes, block: _Block) -> int:
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


def _waiting_gradient(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """The head's gradient of a tied embedding, which waits for the look-up's until the end of the backward pass."""
    if not config.tie_word_embeddings:
        return 0
    return sizes.vocabulary * config.hidden_size * run.weight_size if run.train == "full" else 0

"""Memory of a training step beside weights, gradients and optimizer.

What is kept for the backward pass follows glm/model/layers.py, positions.py, attention.py and loss.py tensor by tensor.
"""

from dataclasses import dataclass
from math import prod

from glm.config.fields import ConfigFields
from glm.config.shapes import block_shapes, parameter_shapes
from glm.memory.head import head_memory
from glm.memory.run import FP32, Run
from glm.memory.sizes import Sizes


@dataclass(frozen=True)
class _MLP:
    """Tensors [B·T, inner] of an MLP: linear layers that read its input, and what is kept for them.

    Attributes:
        inputs: layers that read the block's second norm.
        kept: by the activation and by the last layer.
        backward: alive when the activation's gradient is computed.
    """

    inputs: int
    kept: int
    backward: int


MLPS = {"plain": _MLP(inputs=1, kept=2, backward=3), "gated": _MLP(inputs=2, kept=4, backward=6)}


@dataclass(frozen=True)
class _Block:
    """Bytes that one block of a training batch keeps, by what they are needed for.

    Attributes:
        start: the block's input, which the first norm keeps.
        linear: what attention and its linear layers keep.
        second: what the norm before the MLP and the MLP's first layers keep.
        behind: what the norms behind attention and MLP keep.
        masks: which elements dropout behind attention and behind the MLP left, a byte each.
        scores: softmax and dropout of the attention weights.
        mlp: inputs and outputs of the activation.
        casts: half-precision copies of the weights, at O1.
    """

    start: int
    linear: int
    second: int
    behind: int
    masks: int
    scores: int
    mlp: int
    casts: int

    @property
    def all(self) -> int:
        attention = self.start + self.linear + self.scores
        return attention + self.second + self.behind + self.masks + self.mlp + self.casts


def _block(config: ConfigFields, run: Run, sizes: Sizes) -> _Block:
    half, mixed, lora = sizes.half, run.mixed, run.train == "lora"
    mlp = MLPS[config.mlp_type]
    stream = sizes.own * sizes.wide  # a norm keeps its input
    read, read_again = (sizes.own * half * (count if sizes.apart else 1) for count in (sizes.adapted, mlp.inputs))
    # The softmax is float32 and keeps its output; dropout keeps a byte each, the matmul what comes out of it.
    score = FP32 + (half + 1 if config.attention_dropout else half if half < FP32 else 0)
    activation = sizes.wide if config.linear_bias else half  # what it reads
    own = sizes.wide if config.attention_bias else half  # behind a bias, mixed precision leaves float32
    scored = 2 * own if sizes.in_blocks else FP32 + half
    return _Block(
        start=stream,
        # Queries and keys are float32 where all scores are computed; values and what they add up to are not.
        linear=read + (sizes.queries + sizes.keys) * scored + (_adapters(config, run, sizes) if lora else 0),
        second=stream + read_again,
        behind=2 * stream if config.post_norms else 0,
        masks=2 * sizes.own if config.hidden_dropout else 0,
        scores=sizes.scores * score,
        # Every layer counts as one with experts, which keeps the pairs' inputs for both matrices, and their outputs.
        mlp=sizes.inner * (activation + (mlp.kept - 1) * half) + sizes.pairs * (2 * half + FP32),
        casts=_matrices(config) // config.tensor_parallel_degree * half if mixed else 0,
    )


def _adapters(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """What adapters keep: the input of those behind queries, keys and values, unless it is what the linear layers keep;
    and their products with A.

    Mixed precision makes a cast for each.
    """
    inputs, layers = sizes.adapted if run.mixed else int(sizes.apart), sizes.adapted
    if run.adapts_mlps:
        into_mlp = MLPS[config.mlp_type].inputs
        inputs += into_mlp if run.mixed else 0
        layers += 1 + into_mlp + 1  # behind attention, and the MLP's; of experts one for each that a token takes
        layers += (into_mlp + 1) * config.num_experts_per_tok if run.adapts_experts else 0
    return (inputs * sizes.own + layers * sizes.rows * sizes.width * run.r) * sizes.half


def _frozen(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """What LoRA does not keep: below the first adapters nothing needs a gradient, unless recompute asks for one."""
    if run.train != "lora":
        return 0
    mask = sizes.own if config.embedding_dropout else 0
    copies = sizes.adapted * sizes.own * sizes.half if sizes.apart else 0
    return mask + (0 if run.recompute else sizes.own * sizes.wide + copies)


def _matrices(config: ConfigFields) -> int:
    """Numbers of a block's matrices, of experts those that a rank of them has."""
    shapes = block_shapes(config, sparse=config.n_routed_experts > 0).items()
    sizes = {name: prod(shape) for name, shape in shapes if len(shape) > 1}
    return sum(
        n // (config.expert_parallel_degree if name.startswith("mlp.experts.") else 1) for name, n in sizes.items()
    )


def _mlp_weight(config: ConfigFields) -> int:
    """Numbers of a rank's part of one weight of an MLP; of all its experts of a layer together."""
    widest = max(config.intermediate_size, len(config.own_experts) * config.moe_intermediate_size)
    return widest * config.hidden_size // config.tensor_parallel_degree


def training(config: ConfigFields, run: Run) -> tuple[int, int]:
    """Kept activations, and what comes on top when a step needs most, which is at one of seven moments."""
    sizes = Sizes(config, run)
    block = _block(config, run, sizes)
    earlier = config.num_hidden_layers - 1
    # Recomputed blocks get their input.
    again = sizes.own * sizes.wide
    before = earlier * (again if run.recompute else block.all)  # kept while the last block runs backward
    masks = sizes.own if config.embedding_dropout else 0
    before += masks - _frozen(config, run, sizes) + sizes.tables + (sizes.bias if run.recompute else 0)
    kept = before + (again if run.recompute else block.all)
    head, workspace = head_memory(config, run, sizes)
    moments = (
        kept + head + workspace,
        kept + _last_norm_backward(config, run, sizes),
        before + _norm_backward(config, run, sizes, block),
        before + _mlp_backward(config, run, sizes, block),
        before + _attention_backward(config, run, sizes, block),
        before + _tokens_backward(config, run, sizes, block),
        _embedding_backward(config, run, sizes),
    )
    activations = before + block.all + (0 if run.recompute else head)
    return activations, max(0, max(moments) - activations)


def _last_norm_backward(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """The norm in front of the head: its input, and the gradient of its output."""
    return sizes.own * (sizes.wide + sizes.half) + sizes.norm + _waiting_gradient(config, run, sizes)


def _norm_backward(config: ConfigFields, run: Run, sizes: Sizes, block: _Block) -> int:
    """The norm behind the last block's MLP: gradients of the residual and of the norm's output stand beside all that
    the block keeps but the mask that led there.
    """
    if not config.post_norms:
        return 0
    return block.all - block.masks // 2 + _stream(run, sizes, 2) + sizes.norm + _waiting_gradient(config, run, sizes)


def _stream(run: Run, sizes: Sizes, gradients: int) -> int:
    """Gradients [B·T, H]; recompute has the block's output, and its gradient as it was given, besides."""
    return (gradients + 2 * run.recompute) * sizes.own * sizes.wide


def _mlp_backward(config: ConfigFields, run: Run, sizes: Sizes, block: _Block) -> int:
    """The last block when the gradients of the MLP's last layer are computed, or that of its activation."""
    weight = _mlp_weight(config) * run.weight_size
    mlp, size = MLPS[config.mlp_type], sizes.wide if config.linear_bias else sizes.half
    # Of its input and weight, beside those of the residual and of its output.
    last = block.mlp + sizes.inner * sizes.half + (weight if run.train == "full" else 0) + _stream(run, sizes, 2)
    if run.adapts_mlps:  # the adapter's gradient of its input, and of experts that of its output
        last += sizes.inner * sizes.half + (sizes.pairs * sizes.half if run.adapts_experts else 0)
    activation = mlp.backward * sizes.inner * size + _stream(run, sizes, 1)
    around = block.start + block.linear + block.second + block.behind // 2 + block.masks // 2 + block.scores
    # Of pairs that travel: as they leave, as they arrive, and sorted.
    travel = 3 * sizes.pairs * sizes.half if config.expert_parallel_degree > 1 else 0
    return around + block.casts + max(last, activation) + travel + _waiting_gradient(config, run, sizes)


def _attention_backward(config: ConfigFields, run: Run, sizes: Sizes, block: _Block) -> int:
    """The last block when the softmax runs backward, beside the residual's gradient."""
    scores = _block_backward(config, sizes) if sizes.in_blocks else _dense_backward(config, sizes)
    around = block.start + block.linear + block.casts + _stream(run, sizes, 1)
    return around + scores + _waiting_gradient(config, run, sizes)


def _dense_backward(config: ConfigFields, sizes: Sizes) -> int:
    """Output and two gradients in float32, and the dropout's mask; the context is gone."""
    return sizes.scores * (3 * FP32 + (1 if config.attention_dropout else 0)) - sizes.queries * sizes.half


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
    weight = _mlp_weight(config) * run.weight_size
    weight, inputs = weight if run.train == "full" else 0, MLPS[config.mlp_type].inputs
    # Recompute has the block's output besides.
    stream = (3 if run.recompute else 2) * sizes.own * sizes.wide
    behind = max(whole * min(run.batch_size, 2), whole + inner + weight)
    before = inputs * inner + weight + max(2 * whole, whole + inputs * weight)
    return block.all + max(behind, before - block.mlp) + stream + _waiting_gradient(config, run, sizes)


def _embedding_backward(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """The end of the backward pass: a table's gradient beside that of its rows.

    Paddle's look-up in a part of the vocabulary has three of its table's size at once on other devices than GPUs
    (phi/kernels/custom/c_embedding_grad_kernel.cc). Gradients of tables that ranks have whole are copied to be summed
    over the tokens of all, while the gradients of all tokens wait for the look-up of the words.
    """
    if run.train != "full":
        return 0
    words = (3 if sizes.shared else 1) * sizes.head * run.weight_size
    shapes = parameter_shapes(config).items()
    positions = max((prod(shape) for name, shape in shapes if name.startswith("model.positions.")), default=0)
    positions *= (1 + config.sequence_parallel) * run.weight_size
    rows = (1 + sizes.shared) * sizes.hidden * sizes.wide
    return max(words + rows, positions + sizes.hidden * sizes.wide) + _waiting_gradient(config, run, sizes)


def _waiting_gradient(config: ConfigFields, run: Run, sizes: Sizes) -> int:
    """The head's gradient of a tied embedding, which waits for the look-up's until the end of the backward pass."""
    if not config.tie_word_embeddings:
        return 0
    return sizes.vocabulary * config.hidden_size * run.weight_size if run.train == "full" else 0

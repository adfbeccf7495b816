"""How large the tensors of a training batch are."""

from glm.config.chunks import DENSE_TOKENS, attends_in_blocks, block_scores, chunk_logits
from glm.config.fields import ConfigFields
from glm.distributed.plan import padded
from glm.memory.run import FP32, SIZES, Run

# Share of a head's dimensions that rotary positions rotate, in float32.
ROTARY = {"learned_2d": lambda config: 0, "rotary_2d": lambda config: 1}
ROTARY |= dict.fromkeys(("partial_rotary", "partial_rotary_halves"), lambda config: config.rotary_dim / config.head_dim)
TWO_WAYS = {"learned_2d", "rotary_2d"}  # positions of families whose sources all tokens of a row see


# Float32 tensors of its input's size that a norm's gradient has at once, beside that input and the output's gradient.
NORMS = {"layer_norm": 1, "rms_norm": 4}


class Sizes:
    """Bytes of the tensors of a training batch: [B·T, H], [B·T, N·D / degree], …"""

    def __init__(self, config: ConfigFields, run: Run):
        degree = config.tensor_parallel_degree
        # Sequence parallelism pads rows until the ranks divide them.
        self.width = padded(run.row_length, degree) if config.sequence_parallel else run.row_length
        tokens = run.batch_size * self.width
        self.half = SIZES[run.dtype]  # input of a matmul
        self.wide = FP32 if run.mixed else self.half  # residual stream, and what a bias was added to
        self.shared = degree > 1
        # Of an input, each layer that reads it keeps the copy that a cast or a collective makes; sequence parallelism
        # keeps one for all.
        self.apart = (run.mixed or self.shared) and not config.sequence_parallel
        self.hidden = tokens * config.hidden_size
        # Of the residual stream and the norms, which sequence parallelism divides.
        self.own = self.hidden // degree if config.sequence_parallel else self.hidden
        self.norm = NORMS[config.norm_type] * self.own * FP32
        self.queries, self.keys = (
            tokens * heads * config.head_dim // degree
            for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.inner = tokens * widest_mlp(config) // degree
        self.pairs = tokens * config.num_experts_per_tok * config.hidden_size  # (token, expert) pairs of a sparse layer
        heads, self.rows = config.num_attention_heads // degree, run.batch_size
        self.in_blocks = attends_in_blocks(self.width, lambda: _seen_share(config, run))
        self.scores = 0 if self.in_blocks else heads * run.batch_size * self.width**2
        self.block = block_scores(heads, self.width) if self.in_blocks else 0
        self.bias = 0 if self.in_blocks else bias_size(config, run, self.width)
        self.rotary = ROTARY[config.position_type](config)
        self.adapted = 4 if config.kv_lora_rank else 3  # layers that make queries, keys and values
        self.tables = int(tokens * config.head_dim * self.rotary) * FP32  # cosines and sines
        self.trained = run.trained_tokens
        self.vocabulary = padded(config.vocab_size, degree) // degree
        self.pads = self.vocabulary * degree > config.vocab_size  # the last rank's part, which needs most
        self.logits = self.trained * self.vocabulary
        self.chunk = chunk_logits(self.trained, self.vocabulary)
        self.head = self.vocabulary * config.hidden_size


def widest_mlp(config: ConfigFields) -> int:
    """Width of what a token passes inside an MLP: of the dense one, or of all experts that it takes if that is more."""
    experts = config.num_experts_per_tok + config.n_shared_experts
    return max(config.intermediate_size, experts * config.moe_intermediate_size)


def bias_size(config: ConfigFields, run: Run, width: int) -> int:
    """Bytes of what is added to the scores; query heads that share a key/value head have a copy each (attention.py).

    Of prompts in blocks of queries what is seen is described, not stored.
    """
    return run.batch_size * width**2 * FP32 * config.queries_per_kv if width <= DENSE_TOKENS else 0


def _seen_share(config: ConfigFields, run: Run) -> float:
    """Pairs of tokens that see each other, as a share of all of a row's; of a pack that holds the longest rows."""
    width, longest = run.row_length, run.src_length + run.tgt_length
    rows = [longest] * (width // longest) + [width % longest] if run.max_length else [width]
    source = run.src_length if config.position_type in TWO_WAYS else 0
    return sum(_seen(row, min(row, source)) for row in rows) / width**2


def _seen(tokens: int, prefix: int) -> int:
    """Pairs in a row: all tokens see its prefix, and the others those before."""
    return tokens * prefix + (tokens - prefix) * (tokens - prefix + 1) // 2

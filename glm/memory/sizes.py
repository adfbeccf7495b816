"""How large the tensors of a training batch are."""

from glm.config.chunks import DENSE_TOKENS, block_scores, chunk_logits
from glm.config.fields import ConfigFields
from glm.distributed.plan import padded
from glm.memory.run import FP32, SIZES, Run

# Share of a head's dimensions that rotary positions rotate, in float32.
ROTARY = {"learned_2d": lambda config: 0, "rotary_2d": lambda config: 1}
ROTARY["partial_rotary"] = lambda config: config.partial_rotary_factor
KEEPS_PAIRS = {"rotary_2d"}  # the other's own gradient needs the angles only


class Sizes:
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
        heads, self.rows = config.num_attention_heads // degree, run.batch_size
        self.in_blocks = run.row_length > DENSE_TOKENS
        self.scores = 0 if self.in_blocks else heads * run.batch_size * run.row_length**2
        self.block = block_scores(heads, run.row_length) if self.in_blocks else 0
        self.bias = bias_size(config, run, run.row_length)
        self.rotary = ROTARY[config.position_type](config)
        self.keeps_pairs = config.position_type in KEEPS_PAIRS
        self.tables = int(tokens * config.head_dim * self.rotary) * FP32  # cosines and sines
        self.trained = run.trained_tokens
        self.vocabulary = padded(config.vocab_size, degree) // degree
        self.logits = self.trained * self.vocabulary
        self.chunk = chunk_logits(self.trained, self.vocabulary)
        self.head = self.vocabulary * config.hidden_size

    @property
    def pairs(self) -> int:
        return int((self.queries + self.keys) * self.rotary) * FP32 if self.keeps_pairs else 0


def bias_size(config: ConfigFields, run: Run, width: int) -> int:
    """Bytes of what is added to the scores; query heads that share a key/value head have a copy each (attention.py).

    In blocks of queries what is seen is described, not stored.
    """
    return run.batch_size * width**2 * FP32 * config.queries_per_kv if width <= DENSE_TOKENS else 0

"""Memory of generation beside the weights: attention.py's cache, and what glm/generation/search.py does with it."""

from glm.config.chunks import DENSE_TOKENS, block_scores
from glm.config.fields import ConfigFields
from glm.config.shapes import cache_numbers
from glm.memory.run import FP32, Run
from glm.memory.sizes import ROTARY, bias_size, widest_mlp
from glm.memory.training import MLPS


def generation(config: ConfigFields, run: Run) -> tuple[int, int]:
    """The cache of a batch at the last token, and what comes on top when reading the prompt or a step needs most."""
    size = run.weight_size
    column = cache_numbers(config) * size  # of one token
    rows = run.batch_size * run.num_beams
    prefix = run.batch_size * run.src_length * (column + size)
    tails = rows * run.tgt_length * column
    vocabulary = rows * config.vocab_size * FP32
    # A step has the old tails and the grown ones; with beams then those of the chosen beams.
    copies = 3 if run.num_beams > 1 else 2
    cache = prefix + copies * tails
    choosing = cache + vocabulary * (run.num_beams > 1)
    # Prompts go through all blocks but the last, whose keys and values are not there yet.
    before_last = prefix - run.batch_size * run.src_length * column // config.num_hidden_layers
    peak = max(choosing, prefix + 2 * tails + 4 * vocabulary, before_last + _prefill(config, run))
    return cache, max(0, peak - cache)


def _prefill(config: ConfigFields, run: Run) -> int:
    """Workspace of one block that reads the prompts: of its attention or of its MLP."""
    size, degree = run.weight_size, config.tensor_parallel_degree
    tokens, square = run.batch_size * run.src_length, run.batch_size * run.src_length**2
    low, local = size if size < FP32 else 0, config.num_attention_heads // degree
    # Scores and softmax in float32, and the softmax in half precision.
    if run.src_length <= DENSE_TOKENS:
        scores = local * square * (2 * FP32 + low)
    else:
        scores = block_scores(local, run.src_length) * (2 * FP32 + low) + _row_copies(config, run)
    heads = config.num_attention_heads + config.num_key_value_heads * config.kv_replicas
    heads = heads * config.head_dim // degree
    rotated = 1 if ROTARY[config.position_type](config) else 0  # queries and keys, beside those that were not yet
    attention = scores + tokens * (2 * config.hidden_size + (2 + rotated) * heads) * size
    inner = (MLPS[config.mlp_type].inputs + 1) * widest_mlp(config) // degree
    mlp = tokens * (inner + (3 + 3 * config.num_experts_per_tok) * config.hidden_size) * size
    tables = int(tokens * config.head_dim * ROTARY[config.position_type](config)) * FP32
    return bias_size(config, run, run.src_length) + tables + int(max(attention, mlp))


def _row_copies(config: ConfigFields, run: Run) -> int:
    """One row with heads in front: queries, keys in float32, values; and the context of the rows before it."""
    size, degree = run.weight_size, config.tensor_parallel_degree
    queries, keys = (
        run.src_length * heads * config.head_dim // degree
        for heads in (config.num_attention_heads, config.num_key_value_heads * config.kv_replicas)
    )
    return run.batch_size * queries * size + keys * (size + FP32 + (size if size < FP32 else 0))

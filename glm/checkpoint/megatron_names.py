"""What Megatron-core calls the weights of GLM-4 models, with its local layers, and what is cut and packed how.

A rank holds whole groups: the queries of a key/value head, its key, its value; and of the MLP its share of the gate,
then its share of up. Names: NVIDIA/Megatron-LM, megatron/core/models/gpt/gpt_layer_specs.py; the norms behind attention
and MLP: Ascend/MindSpeed-LLM, mindspeed_llm/core/transformer/transformer_layer.py.
"""

import re
from typing import Any

from glm.checkpoint.names import NameTable, TensorEntry
from glm.checkpoint.packing import FUSED_GATE_UP, Packing
from glm.errors import GLMError

FAMILIES = ("glm4-remote", "glm4", "glm4-0414")
OUTPUT = "output_layer.weight"
LAYER = re.compile(r"(decoder\.layers\.)(\d+)(\..+)")
_STORED, _LAYER = "decoder.layers.{i}", "model.layers.{i}"
_QKV = [f"{_LAYER}.self_attn.{part}_proj" for part in "qkv"]
_GROUPS = Packing(
    ("num_attention_heads", "num_key_value_heads", "num_key_value_heads"),
    groups="num_key_value_heads",
)
# Transformer Engine's layers hold the norm before them, and ms-swift's those behind them: other name → name here.
_OTHER_NAMES = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
    "self_attention.post_self_attn_layernorm.weight": "post_attn_norm.weight",
    "mlp.post_mlp_layernorm.weight": "post_mlp_layernorm.weight",
    "post_self_attn_layernorm.weight": "post_attn_norm.weight",
}


def _norm(stored: str, memory: str, when: str | None = None) -> TensorEntry:
    return TensorEntry(f"{stored}.weight", (f"{memory}.weight",), when=when)


MEGATRON = NameTable(
    rows=(
        TensorEntry("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), extra_rows=True),
        _norm(f"{_STORED}.input_layernorm", f"{_LAYER}.input_layernorm"),
        TensorEntry(
            f"{_STORED}.self_attention.linear_qkv.weight",
            tuple(f"{name}.weight" for name in _QKV),
            linear=True,
            packing=_GROUPS,
        ),
        TensorEntry(
            f"{_STORED}.self_attention.linear_qkv.bias",
            tuple(f"{name}.bias" for name in _QKV),
            packing=_GROUPS,
            when="attention_bias",
        ),
        TensorEntry(
            f"{_STORED}.self_attention.linear_proj.weight", (f"{_LAYER}.self_attn.o_proj.weight",), linear=True
        ),
        _norm(f"{_STORED}.post_attn_norm", f"{_LAYER}.post_self_attn_layernorm", when="post_norms"),
        _norm(f"{_STORED}.pre_mlp_layernorm", f"{_LAYER}.post_attention_layernorm"),
        TensorEntry(
            f"{_STORED}.mlp.linear_fc1.weight",
            (f"{_LAYER}.mlp.gate_proj.weight", f"{_LAYER}.mlp.up_proj.weight"),
            linear=True,
            packing=FUSED_GATE_UP,
        ),
        TensorEntry(f"{_STORED}.mlp.linear_fc2.weight", (f"{_LAYER}.mlp.down_proj.weight",), linear=True),
        _norm(f"{_STORED}.post_mlp_layernorm", f"{_LAYER}.post_mlp_layernorm", when="post_norms"),
        _norm("decoder.final_layernorm", "model.norm"),
        TensorEntry(OUTPUT, ("lm_head.weight",), linear=True, extra_rows=True),
    ),
    tied={OUTPUT: "model.embed_tokens.weight"},
    ignored=("*.inv_freq",),
    torch_layout=True,
)


def canonical(name: str) -> str:
    """A name as this table has it, whichever layers wrote it."""
    match = LAYER.fullmatch(name)
    if match is None:
        return name
    head, number, rest = match.groups()
    return f"{head}{number}.{_OTHER_NAMES.get(rest.removeprefix('.'), rest.removeprefix('.'))}"


def require_family(config: Any, source: Any) -> None:
    """Raises GLMError for a generation that Megatron-core has no form of."""
    if config.family not in FAMILIES:
        raise GLMError(
            f"{source} is of family {config.family}, and Megatron-core checkpoints are of {', '.join(FAMILIES)} only: "
            "choose --format hf or paddle"
        )

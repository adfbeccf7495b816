"""Which tensor on disk is which weight in memory: one table a source format.

In memory (every family): Hugging Face's names, Paddle's [in, out] linear weights, separate q, k, v.
A table row says where a weight is stored, whether torch stores it transposed, and how several weights share one stored
tensor; glm/distributed/plan.py says where tensor parallelism cuts it. Reading and writing both run from the rows.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from glm.checkpoint.expert_stacks import unstacked
from glm.checkpoint.packing import ALONE, FUSED_GATE_UP, FUSED_GROUPS, FUSED_QKV, QKV_PER_HEAD, Packing
from glm.distributed.plan import COLUMN, split_axis
from glm.errors import GLMError

Tensors = Mapping[str, np.ndarray]
_OF_LATENTS = re.compile(r"_b_proj\.")  # second matrices of a pair, whose input is a latent


@dataclass(frozen=True)
class TensorEntry:
    """One stored tensor.

    Args:
        stored: its name on disk, `{i}` for the layer number, `{e}` for the expert, without the table's prefix.
        memory: the names of the weights in it.
        linear: a matrix that is [in, out] in Paddle's layout and [out, in] in torch's.
        packing: how the weights share it.
        shard_packing: the same inside tensor-parallel files, where it differs.
        when: the config attribute without which a model has no such tensor.
        sparse: whether it belongs to layers with experts, or to those without; to all if not given.
        bare: stored without the table's prefix.
        extra_rows: a vocabulary that may have more rows than the model's, which are not read.
    """

    stored: str
    memory: tuple[str, ...]
    linear: bool = False
    packing: Packing = ALONE
    shard_packing: Packing | None = None
    when: str | None = None
    sparse: bool | None = None
    bare: bool = False
    extra_rows: bool = False

    @property
    def reads_hidden(self) -> bool:
        """Whether it holds matrices that are multiplied with what passes between blocks: [hidden_size, out]."""
        return self.linear and self.split == COLUMN and not _OF_LATENTS.search(self.stored)

    @property
    def split(self) -> int | None:
        """COLUMN, ROW, or None where every tensor-parallel rank has all of it; what shares a tensor is cut alike."""
        return split_axis(self.memory[0])

    def packing_in(self, shards: int) -> Packing:
        """How the weights share the tensor in a checkpoint of so many tensor-parallel files."""
        return self.shard_packing if self.shard_packing and shards > 1 else self.packing


@dataclass(frozen=True)
class NameTable:
    """The rows of a source format.

    Args:
        rows: one a stored tensor; those with `{i}` repeat for every layer.
        prefixes: what may stand in front of every stored name; the first is the one that is written.
        tied: stored copies of another weight, if config.tie_word_embeddings: no rows then, dropped after a comparison.
        ignored: patterns of stored names that hold no weight.
        torch_layout: linear weights lie [out, in] in the safetensors files of this format.
        predictor: rows of the layers behind the last, which predict the token after the next (MTP) and which the model
            in memory has not.
    """

    rows: tuple[TensorEntry, ...]
    prefixes: tuple[str, ...] = ("",)
    tied: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    torch_layout: bool = False
    predictor: tuple[TensorEntry, ...] = ()

    def expand(self, config: Any, prefix: str | None = None) -> list[TensorEntry]:
        """All rows with their full stored names, layer by layer; by default with the prefix that is written."""
        prefix = self.prefixes[0] if prefix is None else prefix
        copies = self.tied if config.tie_word_embeddings else {}
        present = [row for row in _present(self.rows, config) if row.stored not in copies]
        rows = [row for row in present if "{i}" not in row.stored]
        layered = [row for row in present if "{i}" in row.stored]
        for i in range(config.num_hidden_layers):
            rows += _at_layer(layered, i, config)
        return [row if row.bare else replace(row, stored=prefix + row.stored) for row in rows]

    def carried(self, config: Any) -> list[TensorEntry]:
        """Rows of what is no part of the model in memory, and belongs to it: files keep it."""
        first = config.num_hidden_layers
        layers = range(first, first + config.num_nextn_predict_layers) if self.predictor else ()
        rows = _present(self.predictor, config)
        return [row for i in layers for row in _at_layer(rows, i, config)]

    def identity(self, config: Any) -> list[TensorEntry]:
        """Rows for files that already carry the in-memory names."""
        return [TensorEntry(name, (name,), row.linear) for row in self.expand(config) for name in row.memory]

    def is_ignored(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored)


def _present(rows: Iterable[TensorEntry], config: Any) -> list[TensorEntry]:
    return [row for row in rows if row.when is None or getattr(config, row.when)]


def _at_layer(rows: list[TensorEntry], i: int, config: Any) -> Iterator[TensorEntry]:
    """The rows of a layer; the experts of a projection one after the other."""
    for row in rows:
        if row.sparse is None or row.sparse == config.is_sparse(i):
            for e in range(config.n_routed_experts if "{e}" in row.stored else 1):
                memory = tuple(name.format(i=i, e=e) for name in row.memory)
                yield replace(row, stored=row.stored.format(i=i, e=e), memory=memory)


def _linear(stored: str, *memory: str, bias_when: str | None = None, **packing: Packing) -> list[TensorEntry]:
    weights, biases = (tuple(f"{name}.{kind}" for name in memory) for kind in ("weight", "bias"))
    return [
        TensorEntry(f"{stored}.weight", weights, linear=True, **packing),
        TensorEntry(f"{stored}.bias", biases, when=bias_when, **packing),
    ]


def _rms(stored: str, memory: str, when: str | None = None) -> list[TensorEntry]:
    return [TensorEntry(f"{stored}.weight", (f"{memory}.weight",), when=when)]


def _norm(stored: str, memory: str) -> list[TensorEntry]:
    return [TensorEntry(f"{stored}.{kind}", (f"{memory}.{kind}",)) for kind in ("weight", "bias")]


_STORED, _LAYER, _ENCODER = "transformer.layers.{i}", "model.layers.{i}", "transformer.encoder.layers.{i}"
_QKV = [f"{_LAYER}.self_attn.{part}_proj" for part in "qkv"]

# PaddleNLP's and Hugging Face's GLM (2021). In PaddleNLP's tensor-parallel files q, k, v alternate per head, so that a
# slice of the last axis is a slice of heads.
GLM = NameTable(
    prefixes=("glm.", ""),
    rows=(
        TensorEntry("word_embeddings.weight", ("model.embed_tokens.weight",)),
        TensorEntry("transformer.position_embeddings.weight", ("model.positions.position_embeddings.weight",)),
        TensorEntry(
            "transformer.block_position_embeddings.weight", ("model.positions.block_position_embeddings.weight",)
        ),
        *_norm(f"{_STORED}.input_layernorm", f"{_LAYER}.input_layernorm"),
        *_linear(f"{_STORED}.attention.query_key_value", *_QKV, packing=FUSED_QKV, shard_packing=QKV_PER_HEAD),
        *_linear(f"{_STORED}.attention.dense", f"{_LAYER}.self_attn.o_proj"),
        *_norm(f"{_STORED}.post_attention_layernorm", f"{_LAYER}.post_attention_layernorm"),
        *_linear(f"{_STORED}.mlp.dense_h_to_4h", f"{_LAYER}.mlp.up_proj"),
        *_linear(f"{_STORED}.mlp.dense_4h_to_h", f"{_LAYER}.mlp.down_proj"),
        *_norm("transformer.final_layernorm", "model.norm"),
    ),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=("*.inv_freq",),
)

# The same layers as published for ChatGLM-6B: q, k, v alternate per head, and the head is its own.
CHATGLM = NameTable(
    prefixes=("transformer.", ""),
    rows=(
        TensorEntry("word_embeddings.weight", ("model.embed_tokens.weight",)),
        *_norm("layers.{i}.input_layernorm", f"{_LAYER}.input_layernorm"),
        *_linear("layers.{i}.attention.query_key_value", *_QKV, packing=QKV_PER_HEAD),
        *_linear("layers.{i}.attention.dense", f"{_LAYER}.self_attn.o_proj"),
        *_norm("layers.{i}.post_attention_layernorm", f"{_LAYER}.post_attention_layernorm"),
        *_linear("layers.{i}.mlp.dense_h_to_4h", f"{_LAYER}.mlp.up_proj"),
        *_linear("layers.{i}.mlp.dense_4h_to_h", f"{_LAYER}.mlp.down_proj"),
        *_norm("final_layernorm", "model.norm"),
        TensorEntry("lm_head.weight", ("lm_head.weight",), linear=True, bare=True),
    ),
    ignored=("*.inv_freq", "*.attention_bias"),
    torch_layout=True,
)

_MLP = (f"{_LAYER}.mlp.gate_proj.weight", f"{_LAYER}.mlp.up_proj.weight")

# GLM-4-9B as its own repositories publish it: fused q|k|v and gate|up.
GLM4_REMOTE = NameTable(
    rows=(
        TensorEntry("transformer.embedding.word_embeddings.weight", ("model.embed_tokens.weight",)),
        *_rms(f"{_ENCODER}.input_layernorm", f"{_LAYER}.input_layernorm"),
        *_linear(f"{_ENCODER}.self_attention.query_key_value", *_QKV, packing=FUSED_GROUPS, bias_when="attention_bias"),
        TensorEntry(f"{_ENCODER}.self_attention.dense.weight", (f"{_LAYER}.self_attn.o_proj.weight",), linear=True),
        *_rms(f"{_ENCODER}.post_attention_layernorm", f"{_LAYER}.post_attention_layernorm"),
        TensorEntry(f"{_ENCODER}.mlp.dense_h_to_4h.weight", _MLP, linear=True, packing=FUSED_GATE_UP),
        TensorEntry(f"{_ENCODER}.mlp.dense_4h_to_h.weight", (f"{_LAYER}.mlp.down_proj.weight",), linear=True),
        *_rms("transformer.encoder.final_layernorm", "model.norm"),
        TensorEntry("transformer.output_layer.weight", ("lm_head.weight",), linear=True),
    ),
    tied={"transformer.output_layer.weight": "model.embed_tokens.weight"},
    ignored=("*.inv_freq",),
    torch_layout=True,
)

# GLM-4-9B (-hf) and GLM-4-0414 as transformers has them; the norms behind attention and MLP are 0414's.
GLM4 = NameTable(
    rows=(
        TensorEntry("model.embed_tokens.weight", ("model.embed_tokens.weight",)),
        *_rms(f"{_LAYER}.input_layernorm", f"{_LAYER}.input_layernorm"),
        *(row for name in _QKV for row in _linear(name, name, bias_when="attention_bias")),
        TensorEntry(f"{_LAYER}.self_attn.o_proj.weight", (f"{_LAYER}.self_attn.o_proj.weight",), linear=True),
        *_rms(f"{_LAYER}.post_self_attn_layernorm", f"{_LAYER}.post_self_attn_layernorm", when="post_norms"),
        *_rms(f"{_LAYER}.post_attention_layernorm", f"{_LAYER}.post_attention_layernorm"),
        TensorEntry(f"{_LAYER}.mlp.gate_up_proj.weight", _MLP, linear=True, packing=FUSED_GATE_UP),
        TensorEntry(f"{_LAYER}.mlp.down_proj.weight", (f"{_LAYER}.mlp.down_proj.weight",), linear=True),
        *_rms(f"{_LAYER}.post_mlp_layernorm", f"{_LAYER}.post_mlp_layernorm", when="post_norms"),
        *_rms("model.norm", "model.norm"),
        TensorEntry("lm_head.weight", ("lm_head.weight",), linear=True),
    ),
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=("*.inv_freq",),
    torch_layout=True,
)


def _gated(name: str, **where: Any) -> list[TensorEntry]:
    names = [f"{name}.{part}_proj.weight" for part in ("gate", "up", "down")]
    return [TensorEntry(each, (each,), linear=True, **where) for each in names]


_GATE = f"{_LAYER}.mlp.gate"


def _same_linear(name: str, bias_when: str) -> list[TensorEntry]:
    return _linear(*[f"{_LAYER}.self_attn.{name}"] * 2, bias_when=bias_when)


def _same_norm(name: str, when: str | None = None) -> list[TensorEntry]:
    return _rms(*[f"{_LAYER}.{name}"] * 2, when=when)


def _alone(name: str) -> TensorEntry:
    return TensorEntry(f"{_LAYER}.self_attn.{name}.weight", (f"{_LAYER}.self_attn.{name}.weight",), linear=True)


def _with_experts(*attention: TensorEntry) -> NameTable:
    """Nothing is fused, and every expert has tensors of its own."""
    block = (
        *_same_norm("input_layernorm"),
        *attention,
        *_same_norm("post_attention_layernorm"),
        *_gated(f"{_LAYER}.mlp", sparse=False),
        TensorEntry(f"{_GATE}.weight", (f"{_GATE}.weight",), linear=True, sparse=True),
        TensorEntry(f"{_GATE}.e_score_correction_bias", (f"{_GATE}.e_score_correction_bias",), sparse=True),
        *_gated(f"{_LAYER}.mlp.experts.{{e}}", sparse=True),
        *_gated(f"{_LAYER}.mlp.shared_experts", sparse=True, when="n_shared_experts"),
    )
    return NameTable(
        rows=(
            TensorEntry("model.embed_tokens.weight", ("model.embed_tokens.weight",)),
            *block,
            *_rms("model.norm", "model.norm"),
            TensorEntry("lm_head.weight", ("lm_head.weight",), linear=True),
        ),
        tied={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=("*.inv_freq",),
        torch_layout=True,
        predictor=(
            TensorEntry(f"{_LAYER}.embed_tokens.weight", (f"{_LAYER}.embed_tokens.weight",)),
            *(row for name in ("enorm", "hnorm") for row in _same_norm(name)),
            TensorEntry(f"{_LAYER}.eh_proj.weight", (f"{_LAYER}.eh_proj.weight",), linear=True),
            *block,
            *_same_norm("shared_head.norm"),
            TensorEntry(f"{_LAYER}.shared_head.head.weight", (f"{_LAYER}.shared_head.head.weight",), linear=True),
        ),
    )


# GLM-4.5 to GLM-4.7.
GLM4_MOE = _with_experts(
    *(row for part in "qkv" for row in _same_linear(f"{part}_proj", "attention_bias")),
    *_same_linear("o_proj", "linear_bias"),
    *(row for part in "qk" for row in _same_norm(f"self_attn.{part}_norm", when="use_qk_norm")),
)

# GLM-4.7-Flash.
GLM4_MOE_LITE = _with_experts(
    *(row for name in ("q_a_proj", "kv_a_proj_with_mqa", "o_proj") for row in _same_linear(name, "attention_bias")),
    *(_alone(name) for name in ("q_b_proj", "kv_b_proj")),
    *(row for part in ("q_a", "kv_a") for row in _same_norm(f"self_attn.{part}_layernorm")),
)

TABLES: dict[str, NameTable] = {
    "glm": GLM,
    "chatglm": CHATGLM,
    "glm4_remote": GLM4_REMOTE,
    "glm4": GLM4,
    "glm4_moe": GLM4_MOE,
    "glm4_moe_lite": GLM4_MOE_LITE,
}


def table_of(config: Any) -> NameTable:
    """The table that config.checkpoint_table names.

    Raises:
        GLMError: when there is no such table.
    """
    if config.checkpoint_table not in TABLES:
        known = ", ".join(sorted(TABLES))
        raise GLMError(f"no checkpoint table is called {config.checkpoint_table!r}: choose one of {known}")
    return TABLES[config.checkpoint_table]


def match_rows(names: Iterable[str], config: Any, source: str, table: NameTable | None = None) -> list[TensorEntry]:
    """The rows that describe a file with these stored names: the table's under one of its prefixes, or the identity.

    Args:
        table: the family's own if not given.
    Raises:
        GLMError: when no name fits.
    """
    table, names = table or table_of(config), set(names)
    candidates = [table.expand(config, prefix) for prefix in table.prefixes]
    candidates.append(table.identity(config))
    rows = max(candidates, key=lambda rows: sum(row.stored in names for row in rows))
    if not any(row.stored in names for row in rows):
        found = ", ".join(sorted(names)[:3]) or "nothing"
        raise GLMError(
            f"{source} holds no weight of a {config.checkpoint_table} model: it has {found}, expected names like "
            f"{candidates[0][0].stored}: check that the directory holds the right model"
        )
    return rows


def is_torch_layout(shapes: Mapping[str, tuple[int, ...]], config: Any) -> bool | None:
    """Whether linear weights lie [out, in], seen from those whose input is hidden_size.

    Args:
        shapes: their shapes [rows, columns] by name.
    Returns:
        None where the shapes do not tell.
    """
    for shape in shapes.values():
        if len(shape) == 2 and (shape[0] == config.hidden_size) != (shape[1] == config.hidden_size):
            return shape[1] == config.hidden_size
    return None


def from_memory(
    state: Tensors, config: Any, *, torch_layout: bool = False, shards: int = 1, partial: bool = False
) -> dict[str, np.ndarray]:
    """The inverse of reading: stored names and tensors of a model, from its weights in memory.

    Args:
        shards: write one of so many tensor-parallel files; the state is that rank's.
        partial: the state may lack weights, but none that share a stored tensor with one that it has.
    Raises:
        GLMError: naming weights that are missing or that the table does not know.
    """
    rows, state = table_of(config).expand(config), unstacked(state)
    if partial:
        rows = [row for row in rows if any(name in state for name in row.memory)]
    known = [name for row in rows for name in row.memory]
    _require_equal_names(set(state), known, config)
    stored = {}
    for row in rows:
        tensor = row.packing_in(shards).pack([np.asarray(state[name]) for name in row.memory], config, shards)
        stored[row.stored] = tensor.T if torch_layout and row.linear else tensor
    return stored


def _require_equal_names(given: set[str], known: list[str], config: Any) -> None:
    missing = [name for name in known if name not in given]
    unknown = sorted(given - set(known))
    if missing or unknown:
        problems = [f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("has", unknown)) if names]
        raise GLMError(
            f"the state does not fit the {config.checkpoint_table} table for {config.num_hidden_layers} layers: it "
            f"{' and '.join(problems)}: pass the state of the whole model"
        )

"""Which weights in memory a layer of an adapter's file is about, under every name that it may have. Needs no Paddle.

Adapters are trained on published models, whose layers are those of the checkpoints: the same tables tell both.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from glm.checkpoint.expert_stacks import single_shapes
from glm.checkpoint.names import TABLES, NameTable, TensorEntry, table_of
from glm.config.shapes import parameter_shapes, stays_float32

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class Layout:
    """The names under which an adapter's file knows the model.

    Attributes:
        rows: full name of a weight or bias → what it is in memory.
        matrices: modules with a weight that can have an adapter: linear layers and embeddings → the row of the weight.
    """

    def __init__(self, rows: dict[str, TensorEntry], config: Any):
        self.rows, self._tied = rows, config.tie_word_embeddings
        shapes = single_shapes(parameter_shapes(config)) | {HEAD: (config.hidden_size, config.vocab_size)}
        self.matrices = {
            name.removesuffix(".weight"): row
            for name, row in rows.items()
            if len(shapes[row.memory[0]]) == 2 and not stays_float32(row.memory[0])  # nobody adapts a router
        }

    def kind(self, module: str) -> str:
        """`linear`, `embedding` or `head`."""
        row = self.matrices[module]
        return "head" if row.memory == (HEAD,) else "linear" if row.linear else "embedding"

    def is_tied_head(self, module: str) -> bool:
        """Whether a module has no weight of its own, so that settings may name it for nothing."""
        return self._tied and self.kind(module) == "head"


def find_layout(names: Iterable[str], config: Any) -> Layout:
    """The layout that knows most of these weights; of equals the first.

    The model's own layouts come first: with each prefix of its table, and the names in memory. Then those of another
    published form of the same model, as GLM-4-9B's of its remote code and of transformers, what a base model without
    the head calls them, and the model's own with another name in front, as PaddleNLP's ChatGLM-6B has them.
    """
    names = set(names)
    layouts = list(_layouts(config))
    for front in sorted({name.partition(".")[0] for name in names}):
        layouts.append({f"{front}.{name}": row for name, row in layouts[0].items()})
    return Layout(max(layouts, key=lambda rows: len(names & rows.keys())), config)


def _layouts(config: Any) -> Iterator[dict[str, TensorEntry]]:
    own = table_of(config)
    yield from _of_table(own, config)
    yield _with_head(own.identity(config), [HEAD], config)
    weights = _weights(own, config)
    others = [table for table in TABLES.values() if table is not own and _weights(table, config) == weights]
    for table in others:
        yield from _of_table(table, config)
    for table in (own, *others):
        rows = next(_of_table(table, config))
        yield {name.partition(".")[2]: row for name, row in rows.items() if name.count(".") > 1}


def _of_table(table: NameTable, config: Any) -> Iterator[dict[str, TensorEntry]]:
    heads = [name for name, original in table.tied.items() if original == EMBEDDING]
    for prefix in table.prefixes:
        yield _with_head(table.expand(config, prefix), heads, config)


def _weights(table: NameTable, config: Any) -> set[str]:
    return {name for row in table.expand(config) for name in row.memory}


def _with_head(rows: list[TensorEntry], heads: list[str], config: Any) -> dict[str, TensorEntry]:
    """By stored name; a tied head has no weight of its own until an adapter gives it one."""
    tied = [TensorEntry(name, (HEAD,), linear=True) for name in heads if config.tie_word_embeddings]
    return {row.stored: row for row in (*rows, *tied)}

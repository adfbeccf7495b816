"""What guided decoding costs: once for a vocabulary, once for a schema, and at every step.

    python -m benchmarks.guided_step --tokenizer ./GLM-4-9B-0414

Texts are drawn among the tokens that are allowed. No model runs: compare a step with the model's own time for a token.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from glm.encoding.json_schema import json_grammar
from glm.engine.constraint import forbid_others
from glm.engine.guided import Grammars
from glm.tokenizers import GLMTokenizer

TEXT = {"type": "string"}
SCHEMAS = {
    "any object": {"type": "object"},
    "three fields": {
        "type": "object",
        "properties": {"city": TEXT, "population": {"type": "integer"}, "rivers": {"type": "array", "items": TEXT}},
        "required": ["city", "population", "rivers"],
        "additionalProperties": False,
    },
    "500 words": {"type": "array", "items": {"enum": [f"word {number}" for number in range(500)]}},
    "tree": {"type": "object", "properties": {"name": TEXT, "sons": {"type": "array", "items": {"$ref": "#"}}}},
    "pattern": {"type": "array", "items": {"type": "string", "pattern": r"^[A-Z]{2}-\d{4,8}$"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="glm-4-9b-0414-tiny", help="directory of a model, or a preset's name")
    parser.add_argument("--vocab_size", type=int, help="columns of the logits; default: the tokenizer's tokens")
    parser.add_argument("--texts", type=int, default=8, help="texts of each schema")
    parser.add_argument("--tokens", type=int, default=300, help="most tokens of a text")
    arguments = parser.parse_args()
    tokenizer = GLMTokenizer.from_pretrained(arguments.tokenizer)
    size = arguments.vocab_size or len(tokenizer)
    grammars, seconds = timed(lambda: Grammars(tokenizer, tokenizer.stop_token_ids, size))
    table = Table("schema", "tokens", "compile, ms", "mask, µs", "p99", "most", "applied, µs", "advance, µs")
    for name, schema in SCHEMAS.items():
        table.add_row(name, *row(grammars, tokenizer.stop_token_ids, schema, arguments.texts, arguments.tokens))
    console = Console()
    console.print(f"vocabulary of {len(tokenizer):,} tokens, {size:,} logits: ready in {seconds:.2f} s")
    console.print(table)
    console.print("medians; applied: the mask made, and all other logits set to -inf")


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def row(grammars: Grammars, ends: list[int], schema: dict, texts: int, most: int) -> list[str]:
    """The cells of a schema."""
    draw, compiled, looked, applied, advanced = np.random.default_rng(0), [], [], [], []
    scores_V = np.zeros([grammars.vocab_size], dtype="float32")
    grammar = json_grammar(schema)
    for _ in range(texts):
        constraint, seconds = timed(lambda: grammars.constraint(grammar))
        compiled.append(seconds)
        for _ in range(most):
            allowed_V, seconds = timed(constraint.allowed)
            looked.append(seconds)
            applied.append(timed(lambda held=constraint: forbid_others(scores_V, held))[1])
            token = int(draw.choice(np.flatnonzero(allowed_V)))
            advanced.append(timed(lambda held=constraint, chosen=token: held.advance(chosen))[1])
            if token in ends:
                break
    micro = [f"{1e6 * value:.0f}" for value in (np.median(looked), np.quantile(looked, 0.99), max(looked))]
    rest = [f"{1e6 * np.median(values):.0f}" for values in (applied, advanced)]
    return [str(len(looked)), f"{1e3 * np.median(compiled):.1f}", *micro, *rest]


if __name__ == "__main__":
    main()

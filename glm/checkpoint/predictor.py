"""Layers behind the last one, which predict the token after the next (MTP): files have them, the model in memory not.

A conversion keeps them where they are. What is trained or merged gets them from the model that it was made of, in a
file of their own, as GLM-4.7 has them.
"""

from pathlib import Path
from typing import Any

from glm.checkpoint.convert import full_weights
from glm.checkpoint.file_layout import safetensors_layout, write_layout
from glm.checkpoint.file_names import PREDICTOR_NAME
from glm.checkpoint.names import table_of
from glm.checkpoint.read import open_checkpoint
from glm.checkpoint.tiles import LARGEST_TILE, Outgoing
from glm.files.atomic import atomic_file


def has_predictor(source: Path, config: Any) -> bool:
    """Whether a model directory holds such layers, as far as config.json counts them."""
    return bool(table_of(config).carried(config)) and bool(_rows(open_checkpoint(source), config))


def copy_predictor(source: Path, target: Path, config: Any) -> None:
    """Writes the layers of one model directory into `mtp.safetensors` of another, or of the same, a tile at a time."""
    if source.resolve() == target.resolve() and (target / PREDICTOR_NAME).is_file():
        return
    checkpoint = open_checkpoint(source)
    _, torch_layout = checkpoint.rows(config)
    how = {"torch_layout": True, "tile": LARGEST_TILE}
    tensors = [
        Outgoing(row, [weight for _, weight in full_weights([row], checkpoint, config, torch_layout)], config, **how)
        for row in _rows(checkpoint, config)
    ]
    layout = safetensors_layout(tensors)
    with atomic_file(target / PREDICTOR_NAME, layout.size) as temporary:
        write_layout(temporary, layout)


def _rows(checkpoint: Any, config: Any) -> list:
    return [row for row in table_of(config).carried(config) if row.stored in checkpoint.ranks[0]]

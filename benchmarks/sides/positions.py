"""How prepared prompts count their tokens."""

from pathlib import Path

import numpy as np

from glm.encoding.batches import BlockPositions, Positions, TextPositions


def positions_of(directory: Path) -> Positions:
    masks = np.load(directory / "inputs.npz")["mask_token_ids"].tolist()
    return BlockPositions(tuple(masks)) if masks else TextPositions()

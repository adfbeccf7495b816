"""Checkpoints: reading every supported format into one in-memory layout, merging, writing. Needs no Paddle."""

from glm.checkpoint.file_names import remove_weights
from glm.checkpoint.names import TABLES, NameTable, TensorEntry, from_memory
from glm.checkpoint.packing import Packing
from glm.checkpoint.read import Checkpoint, check_state, load_state, open_checkpoint
from glm.checkpoint.write import assign_weights, finish_shards, save_index, save_part, save_shard, save_state
from glm.files.atomic import atomic_directory, atomic_file, atomic_write
from glm.pickles.torch_file import load_torch_bin
from glm.pickles.unpickle import load_pdparams, verify_pickle

__all__ = [
    "TABLES",
    "Checkpoint",
    "NameTable",
    "Packing",
    "TensorEntry",
    "assign_weights",
    "atomic_directory",
    "atomic_file",
    "atomic_write",
    "check_state",
    "finish_shards",
    "from_memory",
    "load_pdparams",
    "load_state",
    "load_torch_bin",
    "open_checkpoint",
    "remove_weights",
    "save_index",
    "save_part",
    "save_shard",
    "save_state",
    "verify_pickle",
]

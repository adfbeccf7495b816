"""Writes tests/checkpoint/megatron/logits.npz: what Megatron-core itself computes, on two tensor-parallel ranks.

    python tests/checkpoint/make_megatron_logits.py

Its GPTModel with local layers takes the tensors of megatron_samples.py, by their names and shapes, on a CPU. It needs
torch (requirements-parity.txt), ml_dtypes, safetensors and megatron-core 0.16.1.
"""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parity")]

from megatron_samples import GROUPS, HEADS, HIDDEN, INNER, LAYERS, ROWS, WIDTH, hf_weights, rank_tensors  # noqa: E402

DEGREE, FIXTURE = 2, HERE / "megatron" / "logits.npz"


def main() -> None:
    ids = np.random.default_rng(0).integers(0, ROWS, (2, 12))
    torch.multiprocessing.spawn(run, args=(ids,), nprocs=DEGREE)


def run(rank: int, ids: np.ndarray) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK=str(rank), WORLD_SIZE=str(DEGREE))
    torch.cuda.current_device = lambda: "cpu"  # where Megatron puts what it makes itself
    model = gpt_model(rank)
    columns = torch.arange(ids.shape[1])
    hidden = torch.triu(torch.ones(1, 1, len(columns), len(columns), dtype=torch.bool), 1)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids), columns.expand(*ids.shape), hidden)
    if rank == 0:
        np.savez_compressed(FIXTURE, ids=ids.astype("int32"), logits=logits[..., :ROWS].float().numpy())


def gpt_model(rank: int):
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    torch.distributed.init_process_group("gloo", rank=rank, world_size=DEGREE)
    parallel_state.initialize_model_parallel(DEGREE, 1)
    tensor_parallel.get_cuda_rng_tracker = lambda *_, **__: NoDropout()
    off = ("masked_softmax_fusion", "bias_activation_fusion", "bias_dropout_fusion", "apply_rope_fusion")
    config = TransformerConfig(
        tensor_model_parallel_size=DEGREE,
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        kv_channels=WIDTH,
        ffn_hidden_size=INNER,
        use_cpu_initialization=True,
        normalization="RMSNorm",
        layernorm_epsilon=1e-5,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=True,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        rotary_interleaved=True,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        **dict.fromkeys(off, False),
    )
    model = GPTModel(
        config,
        get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=ROWS + ROWS % DEGREE,
        max_sequence_length=64,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_percent=0.5,
        rotary_base=10000,
        parallel_output=False,
    )
    held = rank_tensors(hf_weights(post_norms=False), rank, DEGREE)
    found = model.load_state_dict({name: torch.from_numpy(array) for name, array in held.items()}, strict=False)
    unknown = [name for name in found.missing_keys if not name.endswith("_extra_state")] + found.unexpected_keys
    if unknown:
        raise SystemExit(f"Megatron has other weights: {unknown}")
    return model.eval()


class NoDropout:
    """In the place of the generator of a CUDA device."""

    def fork(self, *_):
        return contextlib.nullcontext()


if __name__ == "__main__":
    main()

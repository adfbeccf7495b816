"""The weights and batches that both sides open: written once a run, by this project."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from benchmarks.settings import DROPOUT, SEED, Shape
from glm.config import GLMConfig
from glm.datasets.batches import Batch
from glm.datasets.encoding import GLMEncoder
from glm.generation import StopTokens
from glm.model import GLMForCausalLM
from glm.rows import IGNORED

MODEL, BATCHES = "model", "{side}.npz"


def scales(hidden_size: int) -> dict[str, float]:
    """Factors on the random weights, by the end of their names.

    With every weight at 0.02 all positions predict one and the same token. Louder positions and sharper attention make
    place and prompt matter, so that equal tokens on both sides say something.
    """
    sharp = 128.0 / hidden_size**0.5
    return {"position_embeddings.weight": 5.0, "q_proj.weight": sharp, "k_proj.weight": sharp}


def prepare(directory: Path, shape: Shape) -> dict:
    """Writes the model in PaddleNLP's format and both sides' batches into a directory.

    Returns:
        `parameters`, and what a training and a decoding step cost (see `work`).
    """
    paddle.seed(SEED)
    config = GLMConfig.preset(shape.preset, **DROPOUT)
    model = GLMForCausalLM(config)
    for name, parameter in model.state_dict().items():
        for suffix, factor in scales(config.hidden_size).items():
            if name.endswith(suffix):
                parameter.set_value(parameter * factor)
    model.save_pretrained(directory / MODEL)
    training, prompt = batches(config.vocab_size, shape)
    np.savez(
        directory / BATCHES.format(side="project"), **_prefixed("train_", training), **_prefixed("prompt_", prompt)
    )
    frame = frame_tokens(config.vocab_size)
    tokens = {name: getattr(frame, name) for name in ("sop_token_id", "eop_token_id", "pad_token_id")}
    np.savez(directory / BATCHES.format(side="peer"), **paddlenlp_batch(training, shape), **tokens)
    return work(model, shape)


def batches(vocab_size: int, shape: Shape) -> tuple[Batch, Batch]:
    """A training batch and its prompts, of random text, in GLM's frame."""
    tokens = frame_tokens(vocab_size)
    encoder = GLMEncoder(tokens, shape.source, shape.new_tokens + 1)
    draw = np.random.default_rng(SEED)

    def text(length: int) -> list[int]:
        return draw.integers(5, tokens.eos_token_id, length).tolist()

    pairs = [
        (
            [tokens.cls_token_id, *text(shape.source - 3), tokens.gmask_token_id, tokens.eos_token_id],
            [*text(shape.new_tokens - 1), tokens.eop_token_id],
        )
        for _ in range(shape.batch)
    ]
    prompts = [[*source, tokens.sop_token_id] for source, _ in pairs]
    return encoder.training_batch([encoder.row(*pair) for pair in pairs]), encoder.prompt_batch(prompts)


def frame_tokens(vocab_size: int) -> SimpleNamespace:
    """GLM-Chinese's special tokens: the first ten of the last 48 ids."""
    first = vocab_size - 48
    return SimpleNamespace(
        eos_token_id=first,
        pad_token_id=first,
        cls_token_id=first + 2,
        sop_token_id=first + 6,
        eop_token_id=first + 7,
        gmask_token_id=first + 9,
        mask_token_ids=(first + 3, first + 8, first + 9),
    )


def stop_tokens(vocab_size: int) -> StopTokens:
    """One end token, because PaddleNLP's minimum length knows only one."""
    tokens = frame_tokens(vocab_size)
    return StopTokens((tokens.eop_token_id,), tokens.pad_token_id)


def paddlenlp_batch(training: Batch, shape: Shape) -> Batch:
    """The training batch as PaddleNLP's example feeds its model; its first source + 1 columns are the prompts.

    The attention mask is [B, 1, L, L], 1 = visible: all of the source, and of the target what is not ahead.
    """
    length = training["input_ids"].shape[1]
    visible = np.tril(np.ones((length, length), dtype="int64"))
    visible[:, : shape.source] = 1
    trained = training["labels"] != IGNORED
    return {
        "input_ids": training["input_ids"],
        "position_ids": training["position_ids"],
        "attention_mask": np.tile(visible, (shape.batch, 1, 1, 1)),
        "labels": np.where(trained, training["labels"], 0),
        "loss_mask": trained.astype("float32"),
        "source_columns": np.array(shape.source),
    }


def work(model: GLMForCausalLM, shape: Shape) -> dict:
    """Numbers of parameters, for the physical limits: all; used on every token; the head; read in a decoding step."""
    sizes = {name: parameter.size for name, parameter in model.state_dict().items()}
    blocks = sum(size for name, size in sizes.items() if ".layers." in name)
    head = sizes["model.embed_tokens.weight"]
    return {"parameters": sum(sizes.values()), "block_parameters": blocks, "head_parameters": head}


def _prefixed(prefix: str, batch: Batch) -> Batch:
    return {prefix + name: array for name, array in batch.items()}

"""What all sides open: the same random weights in every side's format, the same prompts and batches.

Written once a run, by this project; the GGUF files are made of it by benchmarks/gguf_file.py, in the peers'
environment.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle

from benchmarks.made_weights import made_tensors, write_shards
from benchmarks.settings import SEED, SIDES, Shape
from benchmarks.vocabulary import write_vocabulary
from glm.api.causal_lm import GLMForCausalLM
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.checkpoint.read import open_checkpoint
from glm.config.glm_config import GLMConfig
from glm.config.shapes import active_shapes, elements, parameter_shapes
from glm.encoding.batches import BlockPositions, Positions, TextPositions, training_batch
from glm.encoding.examples import IGNORED, TrainingExample
from glm.encoding.processor import GLMProcessor, open_processor
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import export_step_graph
from glm.export.paddle_graphs import export_graph
from glm.export.writing import write_side_files
from glm.generation.config_json import NAME as GENERATION_FILE
from glm.generation.options import StopTokens
from glm.tokenizers.source import tokenizer_directory

MODEL, HUGGING_FACE, LOOP = "model", "hf", "loop/glm"
INPUTS, TRAINING, PADDLENLP = "inputs.npz", "training.npz", "paddlenlp.npz"
PROMPTS = 16  # rows; a task takes the first ones
EXPORTS = ("onnx", "scorer_onnx", "serving", "cpp")  # modules of sides that open an export


def onnx_prefix(directory: Path, weights: str) -> Path:
    return directory / f"onnx-{weights}" / "glm"


def scales(hidden_size: int) -> dict[str, float]:
    """Factors on the random weights, by the end of their names.

    With every weight at 0.02 all positions predict one and the same token. Louder embeddings and sharper attention make
    place and prompt matter, so that equal tokens on all sides say something.
    """
    sharp = 128.0 / hidden_size**0.5
    return {
        "position_embeddings.weight": 5.0,
        "embed_tokens.weight": 5.0,
        "q_proj.weight": sharp,
        "k_proj.weight": sharp,
    }


def prepare(directory: Path, shape: Shape, sides: list[str]) -> dict:
    """Writes models, exports, prompts and batches into a directory, those that the sides need.

    Returns:
        Numbers of parameters, for the physical limits (see `work`).
    """
    directory.mkdir(parents=True, exist_ok=True)
    config, modules = config_of(shape), {SIDES[side].module for side in sides}
    write_inputs(directory, config, shape)
    source = directory / (HUGGING_FACE if shape.large else MODEL)
    if shape.large:
        write_large(source, config)
    else:
        model = random_model(config)
        model.save_pretrained(source)
        if modules & {"transformers", "llama", "harness", "transformers_server", "llama_server"}:
            convert_checkpoint(Conversion(source, directory / HUGGING_FACE, "hf"))
    for weights in sorted({SIDES[side].weights for side in sides if SIDES[side].module in EXPORTS}):
        write_onnx(source, onnx_prefix(directory, weights), config, weights, bool(modules & {"serving", "cpp"}))
    if "loop" in modules:
        model.eval()
        prefix = directory / LOOP
        prefix.parent.mkdir()
        export_graph(model, stop_tokens(config), prefix)
    return work(config)


def write_large(directory: Path, config: GLMConfig) -> None:
    """A bfloat16 checkpoint as transformers has it; there is no model in memory."""
    directory.mkdir()
    config.save_pretrained(directory)
    write_shards(directory, made_tensors(config))


def config_of(shape: Shape) -> GLMConfig:
    fields = dict(shape.config)
    preset = fields.pop("preset", None)
    return GLMConfig.preset(preset, **fields) if preset else GLMConfig(**fields)


def random_model(config: GLMConfig) -> GLMForCausalLM:
    paddle.seed(SEED)
    model = GLMForCausalLM(config)
    for name, parameter in model.state_dict().items():
        for suffix, factor in scales(config.hidden_size).items():
            # A head that is tied to the embedding would only get louder with it.
            if name.endswith(suffix) and not (config.tie_word_embeddings and suffix == "embed_tokens.weight"):
                parameter.set_value(parameter * factor)
    return model


def write_onnx(source: Path, prefix: Path, config: GLMConfig, weights: str, with_text: bool) -> None:
    """An export of a checkpoint; for servers and C++ with configuration and vocabulary, which no other side opens."""
    prefix.parent.mkdir()
    tensors = open_checkpoint(source).tensors(config)
    kind, _, head_bits = weights.partition("-head")
    stored = weights_of(kind, head_bits=int(head_bits) if head_bits else None)
    export_step_graph(
        config,
        tensors,
        stored,
        prefix,
        source="random weights",
        text=lambda staging: write_text(config, staging) if with_text else None,
    )


def write_text(config: GLMConfig, directory: Path) -> None:
    """config.json and the files of a tokenizer: GLM's own tiny one, or made-up words of GLM-4's kind.

    Texts end as on every other side, whatever the vocabulary says.
    """
    if config.position_type == "learned_2d":
        processor = open_processor(tokenizer_directory("glm-tiny-chinese"))
    else:
        write_vocabulary(directory, config.vocab_size)
        processor = open_processor(directory)
    write_side_files(config, processor, directory)
    (directory / GENERATION_FILE).write_text(json.dumps({"eos_token_id": end_token(config)}), encoding="utf-8")


def write_inputs(directory: Path, config: GLMConfig, shape: Shape) -> None:
    """Prompts for every side, and training batches in this project's and PaddleNLP's form."""
    text = block_text if config.position_type == "learned_2d" else causal_text
    inputs, rows, positions = text(config, shape)
    np.savez(directory / INPUTS, **inputs, eos_token_id=end_token(config), vocab_size=config.vocab_size)
    batch = training_batch(rows, positions, end_token(config))
    np.savez(directory / TRAINING, **batch)
    if isinstance(positions, BlockPositions):
        tokens = frame_tokens(config.vocab_size)
        names = ("sop_token_id", "eop_token_id", "pad_token_id")
        np.savez(
            directory / PADDLENLP, **paddlenlp_batch(batch, shape), **{name: getattr(tokens, name) for name in names}
        )


def causal_text(config: GLMConfig, shape: Shape) -> tuple[dict, list[TrainingExample], Positions]:
    """Random ids; every token is trained."""
    draw = np.random.default_rng(SEED)

    def ids(rows: int, length: int) -> np.ndarray:
        return draw.integers(5, config.vocab_size, [rows, length])

    length = shape.train_source + shape.train_target + 1
    rows = [TrainingExample(row, [True] * length) for row in ids(shape.train_batch, length).tolist()]
    inputs = {"prompts": ids(PROMPTS, shape.prompt), "long_prompts": ids(1, shape.long_prompt)}
    inputs |= {
        "shots": ids(1, shape.shots)[0],
        "questions": ids(shape.questions, shape.question),
        "letters": ids(1, 4)[0],
    }
    return inputs | {"mask_token_ids": np.zeros([0], "int64")}, rows, TextPositions()


def block_text(config: GLMConfig, shape: Shape) -> tuple[dict, list[TrainingExample], Positions]:
    """Random text in GLM's frame."""
    tokens = frame_tokens(config.vocab_size)
    processor = GLMProcessor(tokens, shape.train_source, shape.train_target + 1)
    draw = np.random.default_rng(SEED)

    def text(length: int) -> list[int]:
        return draw.integers(5, tokens.eos_token_id, length).tolist()

    def source() -> list[int]:
        return [tokens.cls_token_id, *text(shape.train_source - 3), tokens.gmask_token_id, tokens.eos_token_id]

    pairs = [(source(), [*text(shape.train_target - 1), tokens.eop_token_id]) for _ in range(shape.train_batch)]
    prompts = np.array([[*source, tokens.sop_token_id] for source, _ in pairs])
    inputs = {"prompts": prompts, "mask_token_ids": np.array(tokens.mask_token_ids)}
    return inputs, [processor.row(*pair) for pair in pairs], processor.positions


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


def end_token(config: GLMConfig) -> int:
    """One end token, because PaddleNLP's minimum length knows only one. No side may generate it."""
    return frame_tokens(config.vocab_size).eop_token_id if config.position_type == "learned_2d" else 2


def stop_tokens(config: GLMConfig) -> StopTokens:
    return StopTokens((end_token(config),), frame_tokens(config.vocab_size).pad_token_id)


def paddlenlp_batch(training: dict, shape: Shape) -> dict:
    """The training batch as PaddleNLP's example feeds its model; its first source + 1 columns are the prompts.

    The attention mask is [B, 1, L, L], 1 = visible: all of the source, and of the target what is not ahead.
    """
    length = training["input_ids"].shape[1]
    visible = np.tril(np.ones((length, length), dtype="int64"))
    visible[:, : shape.train_source] = 1
    trained = training["labels"] != IGNORED
    return {
        "input_ids": training["input_ids"],
        "position_ids": training["position_ids"],
        "attention_mask": np.tile(visible, (shape.train_batch, 1, 1, 1)),
        "labels": np.where(trained, training["labels"], 0),
        "loss_mask": trained.astype("float32"),
        "source_columns": np.array(shape.train_source),
    }


def work(config: GLMConfig) -> dict[str, int]:
    """Numbers of parameters: all; used on every token, of experts as many as one takes; the head's, read in a decoding
    step.
    """
    blocks = {name: shape for name, shape in active_shapes(config).items() if ".layers." in name}
    return {
        "parameters": elements(parameter_shapes(config), config),
        "block_parameters": elements(blocks, config),
        "head_parameters": config.vocab_size * config.hidden_size,
    }

"""Every published model, shrunk, through everything this project does; docs/models.md has the table of what passed.

`UPDATE_DOCS=1 pytest tests/matrix` writes the table.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from math import prod
from pathlib import Path
from unittest.mock import patch

import numpy as np
import paddle
import pytest
from model_checks import LENGTHS, TEXTS, greedy_tokens, loss_and_tokens

import infer_generation
from glm import GLMConfig, GLMForCausalLM
from glm.api.loading import load_merged_model, stream_weights
from glm.api.predictor import Predictor
from glm.checkpoint.conversion import Conversion
from glm.checkpoint.convert import convert_checkpoint
from glm.config.presets import PRESETS, UNTRAINED_PRESETS
from glm.config.shapes import parameter_shapes
from glm.export.onnx.weights import weights_of
from glm.export.onnx.write import export_step_graph
from glm.export.paddle_graphs import export_directory
from glm.export.writing import write_side_files
from glm.inference.exported import open_export
from glm.inference.generator import TextGenerator
from glm.training.arguments import (
    DecodeArguments,
    GLMTrainingArguments,
    InstructionDataArguments,
    ModelArguments,
    parse_arguments,
)
from glm.training.finetune import finetune
from tests.cpp.building import built_programs, missing
from tests.npu_simulator.launching import launch, needs_compiler

pytestmark = pytest.mark.slow

MODELS = [name for name in PRESETS if name not in UNTRAINED_PRESETS]
ABILITIES = ("load", "train", "LoRA", "tensor parallel", "export", "infer", "ONNX Runtime", "C++")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- written by tests/matrix/test_matrix.py -->\n", "<!-- end -->\n"
# Sizes of the models that have no tiny preset of their own.
SMALL_GLM = {"vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}

passed: dict[str, set[str]] = {name: set() for name in MODELS}
begun: set[tuple[str, str]] = set()


@pytest.fixture
def ability(model) -> Callable[[str], None]:
    """Called with an ability when its test has nothing left to check."""

    def record(name: str) -> None:
        passed[model.name].add(name)

    return record


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> Namespace:
    """A shrunk model: as it was drawn, and in the Hugging Face form in which it is published, in several shards."""
    return made(request.param, tmp_path_factory.mktemp("models") / request.param)


def made(name: str, folder: Path) -> Namespace:
    tiny = f"{name}-tiny"
    if tiny in PRESETS:
        drawn = Predictor.load(tiny, lengths=LENGTHS)
    else:
        config = GLMConfig.preset(name, **SMALL_GLM)
        paddle.seed(0)
        drawn = Predictor(GLMForCausalLM(config), Predictor.load("glm-tiny-chinese", lengths=LENGTHS).processor)
        drawn.model.eval()
    drawn.save(folder / "drawn")
    target = folder / "hf"
    convert_checkpoint(Conversion(folder / "drawn", target, own_form(drawn.model.config), max_shard_size=100_000))
    assert len(list(target.glob("model-*.safetensors"))) > 1
    return Namespace(name=name, directory=target, drawn=folder / "drawn", folder=folder)


def own_form(config: GLMConfig) -> str:
    """GLM-4-9B is published in its remote code's names, and so are ChatGLM2 and 3."""
    return "remote" if config.family in ("glm4-remote", "chatglm2") else "hf"


def run(model: Namespace, output: str, *flags: str):
    """Three steps of fine-tuning; returns the trainer."""
    arguments = ["--model_name_or_path", str(model.directory), "--output_dir", str(model.folder / output)]
    arguments += ["--task_name", "alpaca", "--do_train", "--max_steps", "3", "--logging_steps", "1"]
    arguments += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--disable_tqdm", "True"]
    arguments += ["--src_length", "96", "--tgt_length", "32", "--device", "cpu", *flags]
    classes = (InstructionDataArguments, DecodeArguments, ModelArguments, GLMTrainingArguments)
    return finetune(*parse_arguments(classes, "", arguments))


def weights(model) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in model.state_dict().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray], tolerance: float = 0.0) -> bool:
    return first.keys() == second.keys() and all(
        np.allclose(array, second[name], rtol=tolerance, atol=tolerance) for name, array in first.items()
    )


def test_load(model, ability):
    """Bit for bit what was converted."""
    opened = GLMForCausalLM.from_pretrained(model.directory)
    assert same(weights(opened), weights(GLMForCausalLM.from_pretrained(model.drawn)))
    ability("load")


def test_train(model, ability):
    """All weights move, and the model that was saved is the one that was trained."""
    trainer = run(model, "trained")
    saved = weights(GLMForCausalLM.from_pretrained(model.folder / "trained"))
    before = weights(GLMForCausalLM.from_pretrained(model.directory))
    assert same(saved, weights(trainer.model))
    still = [name for name, array in saved.items() if np.array_equal(array, before[name])]
    # A key bias moves all scores of a query alike, which softmax does not see; a router's bias has no gradient.
    assert not [name for name in still if not name.endswith(("k_proj.bias", "e_score_correction_bias"))]
    ability("train")


def test_lora(model, ability):
    """The adapter, read again and merged, is the model that was trained."""
    trainer = run(model, "adapter", "--lora", "True", "--lora_targets", "all")
    merged = load_merged_model(str(model.directory), model.folder / "adapter")
    batch = trainer.evaluation.processor.training_batch(trainer.train_dataset.rows[:2])
    tensors = {name: paddle.to_tensor(array) for name, array in batch.items()}
    trainer.model.eval()
    with paddle.no_grad():
        trained, found = float(trainer.model(**tensors)), float(merged(**tensors))
        assert abs(found - trained) < 1e-5
        assert abs(found - float(GLMForCausalLM.from_pretrained(model.directory)(**tensors))) > 1e-2
    ability("LoRA")


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory) -> dict[str, list]:
    """Loss and tokens of all models, from one launch."""
    folder = tmp_path_factory.mktemp("ranks")
    directories = {name: str(made(name, folder / name).directory) for name in MODELS}
    (folder / "models.json").write_text(json.dumps(directories), encoding="utf-8")
    script, here = Path(__file__).parent / "scripts" / "on_ranks.py", Path(__file__).parent
    path = os.pathsep.join(map(str, (here.parents[1], here)))
    arguments = [str(folder / "models.json"), str(folder / "results.json")]
    result = launch(script, 2, folder / "logs", arguments, PYTHONPATH=path)
    assert result.code == 0, str(result)
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@needs_compiler
def test_tensor_parallel(model, ability, on_two_ranks):
    """Two ranks on simulated NPUs, each with its slices of the shards, and one process."""
    loss, tokens = on_two_ranks[model.name]
    wanted, wanted_tokens = loss_and_tokens(str(model.directory))
    assert abs(loss - wanted) < 1e-5
    assert tokens == wanted_tokens
    ability("tensor parallel")


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor.load(str(model.directory), device="cpu", lengths=LENGTHS)


@pytest.fixture(scope="module")
def exported(model, predictor) -> Path:
    """The model in both formats; ONNX from the weights as they lie in the directory."""
    prefix, processor = model.folder / "infer" / "glm", predictor.processor
    export_directory(predictor.model, processor, prefix)
    config, weights = stream_weights(str(model.directory))
    source, text = str(model.directory), lambda directory: write_side_files(config, processor, directory)
    export_step_graph(config, weights, weights_of("fp32"), prefix, source=source, text=text)
    return model.folder / "infer"


def generator(exported: Path, **wanted) -> TextGenerator:
    """What infer_generation.py opens."""
    words = ["infer_generation.py", "--model_path", str(exported), "--device", "cpu"]
    words += ["--src_length", str(LENGTHS[0]), "--tgt_length", str(LENGTHS[1])]
    with patch.object(sys, "argv", words):
        arguments = infer_generation.parse()
    return open_export(infer_generation.export_options(Namespace(**vars(arguments) | wanted)))[0]


def test_export(exported, ability):
    """Graphs, weights, manifests and side files."""
    wanted = {"config.json", "tokenizer_config.json", "glm.json", "glm.step.json", "glm.pdiparams"}
    wanted |= {"glm.onnx", "glm.onnx.data", "glm.paddle.manifest.json", "glm.onnx.manifest.json"}
    assert wanted <= {path.name for path in exported.iterdir()}
    ability("export")


@pytest.mark.parametrize("stream", [False, True], ids=["whole loop", "step by step"])
def test_infer(exported, predictor, ability, stream):
    """The graphs in Paddle Inference write what the model writes."""
    graph = generator(exported, backend="paddle", stream=stream)
    assert greedy_tokens(graph) == greedy_tokens(predictor)
    if stream:
        ability("infer")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")
def test_onnx_runtime(exported, predictor, ability):
    """So does the step graph in ONNX Runtime."""
    assert greedy_tokens(generator(exported, backend="onnx_runtime")) == greedy_tokens(predictor)
    ability("ONNX Runtime")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="onnxruntime has no wheel for Python 3.10")
def test_cpp(exported, predictor, ability):
    """So does glm_infer, texts and all."""
    words = ["--model_path", exported, "--backend", "onnx_runtime", "--src_length", LENGTHS[0], "--tgt_length", 12]
    command = [built_programs() / "glm_infer", *map(str, words), *TEXTS]
    answers = map(predictor.answer, greedy_tokens(predictor))
    wanted = "".join(f"{text}\n  → {answer}\n" for text, answer in zip(TEXTS, answers, strict=True))
    assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == wanted
    ability("C++")


def test_the_table_of_the_docs(request):
    """Written from what passed above."""
    chosen = {item.originalname for item in request.session.items if item.path == Path(__file__)}
    if len(chosen) < len(ABILITIES) + 1:
        pytest.skip("only some of the tests of the table were asked for")
    if sys.version_info < (3, 11):
        pytest.skip("the table has a column for ONNX Runtime, which has no wheel for Python 3.10")
    if missing() and "GLM_CPP_BUILD" not in os.environ:
        pytest.skip("the table has a column for C++, whose programs cannot be built here")
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    found, _, after = rest.partition(END)
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
    else:
        assert found == table(), "docs/models.md differs: UPDATE_DOCS=1 pytest tests/matrix writes what was found"


def table() -> str:
    rows = [f"| model | parameters | {' | '.join(ABILITIES)} |", "|---|---|" + "---|" * len(ABILITIES)]
    for name in MODELS:
        billions = sum(map(prod, parameter_shapes(GLMConfig.preset(name)).values())) / 1e9
        marks = ["✓" if ability in passed[name] else "–" for ability in ABILITIES]
        rows.append(f"| {PRESETS[name].repository} | {billions:.2f} B | {' | '.join(marks)} |")
    return "\n".join(rows) + "\n"

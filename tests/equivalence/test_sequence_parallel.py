"""Training under sequence parallelism is training without: losses, gradients, weights, texts, on the simulated NPU.

What a broken variant gives, where 1e-5 is allowed: without the sums of gradients over the ranks the losses differ by
5e-3, and gradients by 0.6 of the largest; with the gradients of gathered tokens left unsummed, by 2e-3 and 0.7; with
the tokens of several rows scattered in the wrong order, by 2e-2 and 1.8.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from family_models import FAMILY
from training_runs import NO_DROPOUT, arguments, losses, sample_rows, train, write_model, write_rows

from glm import GLMConfig
from glm.errors import GLMError, UsageError
from glm.training.arguments import GLMTrainingArguments, parse_arguments
from tests.indexed_text import arguments as pretraining
from tests.indexed_text import history, pretrain, random_documents, write_indexed
from tests.npu_simulator.launching import ROOT, Launch, launch, needs_compiler

SCRIPTS = Path(__file__).parent / "scripts"
STEPS = 20
TOLERANCE = 1e-5
FAMILIES = ["glm", *FAMILY]
# 2 divides 16 tokens; of 13 and 3, the last share has padding besides. In chunks: as long rows are trained.
QUICK = [
    ("glm", "full", 3, ""),
    ("glm4-0414", "recomputed LoRA", 13, "packed"),
    ("chatglm", "recomputed LoRA", 13, "in chunks"),
    ("glm4-remote", "full", 13, "packed, in chunks"),
]
ALL = [(family, kind, t, "") for family in FAMILIES for kind in ("full", "LoRA", "recomputed") for t in (16, 3)]
ALL += [(family, "recomputed LoRA", 13, way) for family in FAMILIES for way in ("", "packed", "in chunks")]
ALL += [(family, "recomputed", 16, "packed, in chunks") for family in FAMILIES]
ALL += [(family, "LoRA of the head", 13, way) for family in FAMILY for way in ("", "in chunks")]
COMMON = {
    "max_steps": STEPS,
    "save_steps": 10,
    "per_device_eval_batch_size": 4,
    "do_eval": True,
    "num_beams": 1,
    "min_tgt_length": 0,
    "label_smoothing": 0.1,
}
RUNS = {
    "full": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "LoRA": {"lora": True, "r": 4, "lora_targets": "all", "learning_rate": 1e-2},
    "recomputed, accumulated": {"recompute": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
}
DROPOUT = {"do_eval": False, "lora": True, "lora_targets": "all", "lora_dropout": 0.1}


class Bench:
    """Reference runs of one CPU process, and runs under sequence parallelism beside them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = write_model(folder / "model", **NO_DROPOUT | {"vocab_size": 386})
        self.dropout_model = write_model(folder / "dropout_model")
        (folder / "data").mkdir()
        write_rows(folder / "data" / "train.json", sample_rows(44))
        write_rows(folder / "data" / "dev.json", sample_rows(6))

    def reference(self, name: str) -> Path:
        output = self.folder / "reference" / name
        if not output.exists():
            train(self.model, self.folder / "data", output, **COMMON | RUNS[name] | {"device": "cpu"})
        return output

    def launch(self, title: str, ranks: int, runs: dict[str, dict], script: str = "finetune_runs.py") -> None:
        """Runs by name, one after another in each rank."""
        folder = self.folder / title
        own = {"device": "npu", "bf16": False, "sequence_parallel": True, "tensor_parallel_degree": ranks}
        lists = [
            arguments(self.model, self.folder / "data", folder / name, **COMMON | RUNS.get(name, {}) | own | more)
            for name, more in runs.items()
        ]
        start(folder, ranks, script, lists)


def start(folder: Path, ranks: int, script: str, content: list) -> Launch:
    """A script on simulated NPUs, with a list as a JSON file."""
    folder.mkdir()
    file = folder / "content.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    path = f"{ROOT}:{ROOT / 'tests'}"
    result = launch(SCRIPTS / script, ranks, folder / "logs", [str(file)], seconds=400, PYTHONPATH=path)
    assert result.code == 0, str(result)
    if script == "finetune_runs.py":
        assert all(log.count("divided true") == len(content) for log in result.logs)
    return result


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Launch:
    """The quick cases of degree 2."""
    return start(tmp_path_factory.mktemp("cases") / "two", 2, "token_shares.py", QUICK)


def predictions(output: Path) -> list[str]:
    lines = (output / "eval_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def assert_same_run(bench: Bench, output: Path, steps: int = STEPS) -> None:
    """As one process on the CPU: losses to 1e-5, and the generated texts."""
    reference = bench.reference(output.name.split(":")[0])
    found, wanted = (np.array(losses(each)[-steps:]) for each in (output, reference))
    assert len(found) == steps
    assert np.abs(found / wanted - 1).max() < TOLERANCE
    assert wanted[-1] < 0.99 * losses(reference)[0]
    assert predictions(output) == predictions(reference)
    assert len(set(predictions(output))) > 1


def assert_equal_cases(result, degree: int, cases) -> None:
    """On every rank; the norms saw its tokens alone, and all of them without sequence parallelism."""
    for log in result.logs:
        lines = [json.loads(line[6:]) for line in log.splitlines() if line.startswith("found ")]
        assert len(lines) == len(cases), log
        for (*case, tokens, way), found in zip(cases, lines, strict=True):
            assert found["tokens"] == [[-(-tokens // degree)], [tokens]]
            assert found["distance"][0] < TOLERANCE, (case, tokens, way, found["distance"])


@needs_compiler
def test_gradients_are_those_without(two):
    """Of every weight of every family, norms and biases and adapters included; of the loss and the logits too."""
    assert_equal_cases(two, 2, QUICK)


@needs_compiler
def test_ranks_drop_apart(two):
    """Each draws for its own tokens; with the same numbers all would drop alike."""
    found = [json.loads(line[8:]) for log in two.logs for line in log.splitlines() if line.startswith("dropped ")]
    assert len(found) == 2 and found[0] != found[1]
    assert all({0.0, 2.0} == set(left) for left in found)


@needs_compiler
def test_a_model_in_training_does_not_generate(two):
    """One token has no shares: a line says what to do, where a collective would fail."""
    lines = [line for log in two.logs for line in log.splitlines() if line.startswith("refused ")]
    assert len(lines) == 2
    assert "rows of 1 tokens have no equal shares for tensor_parallel_degree 2" in lines[0]
    assert "call the model's eval() before it generates" in lines[0]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("degree", [2, 4])
def test_every_kind_of_gradient(tmp_path, degree):
    cases = ALL if degree == 2 else ALL[1::2]  # four processes take long
    assert_equal_cases(start(tmp_path / "cases", degree, "token_shares.py", cases), degree, cases)


@pytest.mark.slow
@needs_compiler
def test_kinds_of_runs_of_two(bench):
    """LoRA, recompute with accumulation, and a run that goes on from a checkpoint without sequence parallelism."""
    resumed = {"resume_from_checkpoint": bench.reference("full") / "checkpoint-10"}
    runs = {name: {} for name in RUNS if name != "full"} | {"full:resumed": RUNS["full"] | resumed}
    bench.launch("kinds", 2, runs)
    for name in runs:
        assert_same_run(bench, bench.folder / "kinds" / name, steps=10 if "resumed" in name else STEPS)


# Degrees, and flags of 2 × 2 ranks; a launch has one degree.
OF_FOUR = {"four": {}, "2x2 stage1": {"sharding": "stage1"}, "2x2 stage2": {"sharding": "stage2"}}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("title", OF_FOUR)
def test_runs_of_four(bench, title):
    """Tensor parallel 4, 2 × 2 with both stages of sharding."""
    half = {"tensor_parallel_degree": 2, "per_device_train_batch_size": 2} if OF_FOUR[title] else {}
    runs = {"full": half | OF_FOUR[title]} | ({} if half else {"LoRA": {}})
    bench.launch(title, 4, runs)
    for name in runs:
        assert_same_run(bench, bench.folder / title / name)


PRETRAINING = {
    "recompute": {"recompute": True, "max_length": 31},
    "packed": {"reset_attention_mask": True, "reset_position_ids": True, "gradient_accumulation_steps": 2},
}


@pytest.mark.slow
@needs_compiler
def test_pretraining_is_one_device(tmp_path):
    """Of samples that 2 does not divide, and of documents that do not see each other."""
    data = write_indexed(tmp_path / "text", random_documents(60))
    common = {"do_eval": True, "save_strategy": "no", "bf16": False}
    own = {"device": "npu", "sequence_parallel": True, "tensor_parallel_degree": 2}
    lists = [pretraining(data, tmp_path / "two" / name, **common | flags | own) for name, flags in PRETRAINING.items()]
    start(tmp_path / "two", 2, "finetune_runs.py", lists)
    for name, flags in PRETRAINING.items():
        pretrain(data, tmp_path / "one" / name, **common | flags)
        one, two = ([row["loss"] for row in history(tmp_path / side / name)] for side in ("one", "two"))
        assert len(one) == 12 and one[-1] < 0.99 * one[0]
        assert np.abs(np.divide(two, one) - 1).max() < TOLERANCE
        figures = [json.loads((tmp_path / side / name / "eval_results.json").read_text()) for side in ("one", "two")]
        assert figures[1]["eval_loss"] == pytest.approx(figures[0]["eval_loss"], rel=TOLERANCE)


@pytest.mark.slow
@needs_compiler
def test_dropout_is_drawn_again_alike(bench):
    """When a block is recomputed, and in a run that resumes; what the ranks hold whole stays the same on all."""
    run = DROPOUT | {"model_name_or_path": bench.dropout_model}
    checkpoint = bench.folder / "dropout" / "plain" / "checkpoint-10"
    runs = {
        "plain": run,
        "recomputed": run | {"recompute": True},
        "resumed": run | {"resume_from_checkpoint": checkpoint},
    }
    bench.launch("dropout", 2, runs, script="same_on_all_ranks.py")
    plain, recomputed, resumed = (np.array(losses(bench.folder / "dropout" / name)) for name in runs)
    assert np.abs(recomputed / plain - 1).max() < 1e-6
    assert np.array_equal(resumed[-10:], plain[-10:])


@pytest.mark.slow
@needs_compiler
def test_half_precision_is_near(bench):
    """bfloat16 at both levels, and gradients in float32 beside it (amp_master_grad)."""
    half = {"bf16": True, "do_eval": False, "save_strategy": "no"}
    o2 = half | {"fp16_opt_level": "O2"}
    runs = {"full:O1": half, "full:O2": o2, "full:master gradients": o2 | {"amp_master_grad": True}}
    bench.launch("half", 2, runs)
    wanted = np.array(losses(bench.reference("full")))
    for name in runs:
        assert 1e-6 < np.abs(np.array(losses(bench.folder / "half" / name)) / wanted - 1).max() < 2e-3, name


# refused


def refusal(monkeypatch, **flags) -> str:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with pytest.raises(UsageError) as error:
        parse_arguments([GLMTrainingArguments], "", ["--output_dir", "output/none", "--device", "cpu", *words])
    return str(error.value)


@pytest.mark.parametrize("degree", [1, -1])
def test_one_rank_has_nobody_to_share_with(monkeypatch, degree):
    line = refusal(monkeypatch, sequence_parallel=True, tensor_parallel_degree=degree)
    assert line.startswith(f"sequence_parallel is True and tensor_parallel_degree {degree}: ")
    assert "choose a degree above 1 or leave it out" in line


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("fuse_sequence_parallel_allreduce", "True"),
        ("tensor_parallel_config", "enable_sp_async_reduce_scatter"),
        ("tensor_parallel_config", "enable_delay_scale_loss,enable_mp_async_allreduce"),
        ("sequence_parallel_config", "enable_allreduce_avg_in_gradinent_scale"),
    ],
)
def test_what_would_do_nothing_is_refused(monkeypatch, flag, value):
    line = refusal(monkeypatch, sequence_parallel=True, tensor_parallel_degree=2, **{flag: value})
    assert flag in line and value.split(",")[-1] in line and "leave" in line


def test_a_configuration_of_one_rank_is_refused():
    with pytest.raises(GLMError, match="sequence_parallel is True and tensor_parallel_degree 1, whose ranks"):
        GLMConfig(sequence_parallel=True)

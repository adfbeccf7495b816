"""Tiny exports of every kind of model, and what Python's engine writes with them."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cpp_texts import DATA
from family_models import LATENT, SPARSE
from tiny_chat import KINDS, chat_model, vocabulary
from tiny_glm import tiny_model
from write_onnx import write_export

from glm.generation.config_json import NAME as GENERATION_FILE
from glm.inference.exported import ExportOptions, open_export
from glm.tokenizers import GLMTokenizer

# Models with experts, by their vocabularies: family, seed and sizes. With seed 3 two beams of the second one have the
# same score to the fifth digit.
SPARSE_KINDS = {
    "glm45": ("glm4-moe", 3, SPARSE | {"moe_intermediate_size": 32}),
    "glm47": ("glm4-moe-lite", 4, LATENT),
}
CHATS = (*KINDS, *SPARSE_KINDS)
NAMES = ("glm-chinese", *CHATS)
SEED = 11


@dataclass
class Export:
    """A directory with an export, and the programs.

    Attributes:
        backend: a runtime of both sides.
    """

    folder: Path
    programs: Path
    backend: str = "onnx_runtime"

    def generator(self, **options):
        wanted = ExportOptions(path=self.folder, backend=self.backend, device="cpu", cpu_threads=1, streams=True)
        return open_export(replace(wanted, **options))[0]

    def infer(self, *words, code: int = 0, stdin: str | None = None, **options) -> subprocess.CompletedProcess:
        command = [self.programs / "glm_infer", "--model_path", self.folder, "--backend", self.backend]
        command += ["--cpu_threads", "1", *words]
        stdin = None if stdin is None else stdin.encode()
        run = subprocess.run([*map(str, command)], capture_output=True, input=stdin, timeout=600, **options)
        # Not text=True, which makes line ends of others.
        run.stdout, run.stderr = run.stdout.decode(), run.stderr.decode()
        assert run.returncode == code, (run.returncode, run.stdout[-2000:], run.stderr[-2000:])
        return run

    def ids(self, prompts: Sequence[Sequence[int]], *words) -> list[list[int]]:
        """Tokens behind prompts."""
        run = self.infer("--ids", *words, *(" ".join(map(str, ids)) for ids in prompts))
        lines = [line.removeprefix("  → ") for line in run.stdout.splitlines() if line.startswith("  → ")]
        assert len(lines) == len(prompts)
        return [[int(word) for word in line.split()] for line in lines]


def write_model(name: str, folder: Path, likely: Sequence[str] = (), positions: int = 512) -> Path:
    """A tiny random model, some tokens of which end its texts.

    Args:
        likely: tokens whose logits are spread wider than others, so that texts have them; of GLM-4's families.
        positions: of a model with experts.
    """
    if name == "glm-chinese":
        model, files = tiny_model(seed=5, max_position_embeddings=512), DATA / "glm-tiny-chinese"
    elif name in SPARSE_KINDS:
        family, seed, sizes = SPARSE_KINDS[name]
        sizes = sizes | {"max_position_embeddings": positions, "vocab_size": 790}
        model, files = tiny_model(seed=seed, spread=0.4, family=family, **sizes), DATA / f"{name}-tiny"
    else:
        model, files = chat_model(name), vocabulary(name)
    if likely:
        head = model.lm_head.weight.numpy()
        head[:, GLMTokenizer.from_pretrained(files).convert_tokens_to_ids(likely)] *= 3
        model.lm_head.weight.set_value(head)
    model.save_pretrained(folder)
    shutil.copytree(files, folder, dirs_exist_ok=True)
    size = model.config.vocab_size
    ends = np.random.default_rng(SEED).choice(size, size // 12, replace=False)
    (folder / GENERATION_FILE).write_text(json.dumps({"eos_token_id": [*map(int, ends)]}), encoding="utf-8")
    return folder


def make_export(name: str, folder: Path, **options) -> Path:
    write_export(write_model(name, folder / "model", **options), folder / "export")
    return folder / "export"

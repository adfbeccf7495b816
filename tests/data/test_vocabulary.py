"""The tiny vocabulary: reproducible, complete, and spelt so that names can be copied."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from glm.datasets.prompts import CONVERSATION, INSTRUCTION, QUESTION_GENERATION
from glm.tokenizers import GLMTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
BUNDLED = DATA / "glm-tiny-chinese"


@pytest.fixture(scope="module")
def tokenizer():
    return GLMTokenizer.from_pretrained(BUNDLED)


def pieces(folder: Path) -> list[tuple[str, float]]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "cog-pretrain.model"))
    return [(model.IdToPiece(i), model.GetScore(i)) for i in range(model.GetPieceSize())]


def test_script_trains_the_bundled_vocabulary(tmp_path):
    command = [sys.executable, str(DATA / "train_vocabulary.py"), "--output", str(tmp_path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert pieces(tmp_path) == pieces(BUNDLED)
    for file in BUNDLED.glob("*.json"):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    assert "384 ids" in result.stdout


def test_special_tokens_stand_behind_the_pieces(tokenizer):
    assert (tokenizer.piece_count, len(tokenizer)) == (374, 384)
    assert [piece for piece, _ in pieces(BUNDLED)[:4]] == ["<unk>", "<s>", "</s>", "<n>"]
    assert tokenizer.added_tokens["<|endoftext|>"] == 374


@pytest.mark.parametrize(
    ("folder", "task_format"),
    [
        ("dureader_qg", QUESTION_GENERATION),
        ("bellegroup/school_math_0.25M", INSTRUCTION),
        ("bellegroup/multiturn_chat_0.8M", CONVERSATION),
    ],
)
@pytest.mark.parametrize("split", ["train", "dev"])
def test_no_character_of_the_samples_is_unknown(tokenizer, folder, task_format, split):
    for line in (DATA / folder / f"{split}.json").read_text(encoding="utf-8").splitlines():
        example = task_format.example(json.loads(line))
        assert tokenizer.unk_token_id not in tokenizer.text_ids(example.source) + tokenizer.text_ids(example.target)


def test_name_characters_are_single_tokens(tokenizer):
    sys.path.insert(0, str(DATA))
    from make_samples import NAME_CHARACTERS

    merged = [piece for piece, _ in pieces(BUNDLED) if len(piece) > 1 and set(piece) & set(NAME_CHARACTERS)]
    assert merged == []
    assert all(tokenizer.text_ids(f"在{c}")[-1] == tokenizer.convert_tokens_to_ids(c) != 0 for c in NAME_CHARACTERS)


def test_prompts_are_short(tokenizer):
    """A prompt's fixed words are few tokens, which is what makes two minutes of training enough."""
    assert len(tokenizer.text_ids(" 在已知答案的前提下，问题：")) <= 4

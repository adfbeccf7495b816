"""The tiny vocabularies of ChatGLM and GLM-4: reproducible, complete, and spelt so that names can be copied."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from glm.tokenizers import GLMTokenizer
from glm.tokenizers.chatglm import LAYOUT
from glm.tokenizers.chatglm2 import ROLE_TOKENS, TASK_TOKENS
from glm.tokenizers.glm4 import GLM45_TOKENS, SPECIAL_TOKENS

DATA = Path(__file__).resolve().parents[2] / "data"
GLM4 = ["glm4-tiny", "glm4-0414-tiny"]
NAMES = ["chatglm-tiny", "chatglm2-tiny", "chatglm3-tiny", *GLM4, "glm45-tiny", "glm47-tiny"]


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request):
    return GLMTokenizer.from_pretrained(DATA / request.param)


@pytest.fixture(scope="module")
def samples():
    sys.path.insert(0, str(DATA))
    from train_vocabulary import BOUNDARY, training_text

    return [text.replace(BOUNDARY, "") for text in training_text()]


def pieces(file: Path) -> list[tuple[str, float]]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return [(model.IdToPiece(i), model.GetScore(i)) for i in range(model.GetPieceSize())]


def test_script_makes_the_bundled_files(tmp_path):
    command = [sys.executable, str(DATA / "train_family_vocabularies.py"), "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "glm4-tiny: 754 pieces, 768 ids" in result.stdout
    models = {"ice_text.model", "tokenizer.model"}
    for model in ("chatglm-tiny/ice_text.model", "chatglm2-tiny/tokenizer.model", "chatglm3-tiny/tokenizer.model"):
        assert pieces(tmp_path / model) == pieces(DATA / model)
    for name in NAMES:
        files = {path.name for path in (DATA / name).iterdir()}
        assert files == {path.name for path in (tmp_path / name).iterdir()}
        for file in files - (set() if name in GLM4 else models):
            assert (tmp_path / name / file).read_bytes() == (DATA / name / file).read_bytes()
        assert sum(path.stat().st_size for path in (DATA / name).iterdir()) < 256_000


def test_special_tokens_have_the_real_names():
    chatglm, chatglm2, chatglm3, *others = (GLMTokenizer.from_pretrained(DATA / name) for name in NAMES)
    names = {"<unk>", "<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"}
    assert set(chatglm.added_tokens) == names
    assert chatglm.unk_token_id not in chatglm.convert_tokens_to_ids(list(LAYOUT.values()))
    names = {"<unk>": 0, "<s>": 1, "</s>": 2} | {text: 823 + i for i, text in enumerate(TASK_TOKENS)}
    assert chatglm2.added_tokens == names
    assert chatglm3.added_tokens == names | {text: 828 + i for i, text in enumerate(ROLE_TOKENS)}
    assert [len(chatglm2), len(chatglm3)] == [828, 832]
    for tokenizer in others[:2]:
        assert tokenizer.added_tokens == {text: 754 + i for i, text in enumerate(SPECIAL_TOKENS)}
    for tokenizer, pieces_ in zip(others[2:], (754, 748), strict=True):
        assert tokenizer.added_tokens == {text: pieces_ + i for i, text in enumerate(SPECIAL_TOKENS + GLM45_TOKENS)}
    assert [len(tokenizer) for tokenizer in (chatglm, *others)] == [800, 768, 768, 790, 784]


def test_the_two_glm4_vocabularies_are_the_same(samples):
    ranks, library = (GLMTokenizer.from_pretrained(DATA / name) for name in GLM4)
    assert len(samples) > 10_000
    assert [text for text in samples[::10] if ranks.text_ids(text) != library.text_ids(text)] == []


def test_every_sample_character_is_one_piece(tokenizer, samples):
    alone = {character: tokenizer.text_ids("a" + character) for character in sorted(set("".join(samples)) - {" "})}
    start = tokenizer.text_ids("a")
    assert {character for character, ids in alone.items() if len(ids) > len(start) + 1} == set()


def test_name_characters_are_never_merged(tokenizer):
    sys.path.insert(0, str(DATA))
    from make_samples import NAME_CHARACTERS

    for index in range(tokenizer.vocab_size):
        piece = tokenizer.decode([index])
        assert len(piece) <= 1 or not set(piece) & set(NAME_CHARACTERS), piece

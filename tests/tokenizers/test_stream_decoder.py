"""StreamDecoder: joined output equals decode of the whole, and no half character is ever shown."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from shared_files import SHARED

from glm.tokenizers import GLMTokenizer, StreamDecoder

REAL = SHARED / "real"
BUNDLED = Path(__file__).resolve().parents[2] / "data" / "glm-tiny-chinese"
EMOJI = "👨‍👩‍👧 一个家庭，😀é\u0301 end"


class Bytes:
    """A vocabulary of the 256 bytes and of two-byte chunks (id 256 + n: the n-th chunk), as GLM-4's rank files have."""

    chunks = (b"\xbd\xa0\xe5", b"a\xf0", b"\xe4\xbd")

    def decode(self, ids, skip_special_tokens=True):
        return b"".join(bytes([i]) if i < 256 else self.chunks[i - 256] for i in ids).decode("utf-8", "replace")


class Pieces:
    """A bare sentencepiece file with byte fallback."""

    def __init__(self, path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def decode(self, ids, skip_special_tokens=True):
        return self.model.DecodeIds(ids)


def stream(tokenizer, ids):
    decoder = StreamDecoder(tokenizer)
    return [*map(decoder.put, ids), decoder.end()]


@pytest.fixture(scope="module")
def real_vocabulary(tmp_path_factory):
    path = REAL / "tokenizers/cog-pretrain.model"
    if not path.is_file():
        pytest.skip(f"the real vocabulary is not at {REAL}")
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / path.name).write_bytes(path.read_bytes())
    return GLMTokenizer.from_pretrained(folder)


def test_real_text(real_vocabulary):
    lines = (REAL / "datasets/belle.dev1k.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    for line in lines:
        ids = real_vocabulary.text_ids(json.loads(line)["output"])
        assert "".join(stream(real_vocabulary, ids)) == real_vocabulary.decode(ids, skip_special_tokens=True)


def test_random_ids(real_vocabulary):
    """Any order of pieces, unknown, control and special tokens, and the bare space piece many times over."""
    rng = random.Random(1)
    space = real_vocabulary.convert_tokens_to_ids("▁")
    likely = [space, space, 0, 1, 2, 3, real_vocabulary.gmask_token_id]
    for _ in range(400):
        ids = [rng.choice(likely) if rng.random() < 0.5 else rng.randrange(50100) for _ in range(30)]
        assert "".join(stream(real_vocabulary, ids)) == real_vocabulary.decode(ids, skip_special_tokens=True), ids


def test_bundled_vocabulary_streams_every_token():
    tokenizer = GLMTokenizer.from_pretrained(BUNDLED)
    ids = [
        tokenizer.sop_token_id,
        *tokenizer.text_ids("在已知答案的前提下，问题：云溪桥建于哪一年"),
        tokenizer.eop_token_id,
    ]
    parts = stream(tokenizer, ids)
    assert "".join(parts) == "在已知答案的前提下,问题:云溪桥建于哪一年"
    assert parts[-2:] == ["", ""]
    assert sum(map(bool, parts)) == len(ids) - 2


def test_byte_fallback():
    path = REAL / "tokenizers/ice_text.model"
    if not path.is_file():
        pytest.skip(f"the real vocabulary is not at {REAL}")
    tokenizer = Pieces(path)
    ids = tokenizer.model.EncodeAsIds("古字𪚥与" + EMOJI + "𝒳")
    assert any(tokenizer.model.IsByte(i) for i in ids)
    parts = stream(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    assert "\ufffd" not in "".join(parts)


def test_every_byte_cut_of_a_character():
    ids = list(EMOJI.encode())
    parts = stream(Bytes(), ids)
    assert "".join(parts) == EMOJI
    assert "\ufffd" not in "".join(parts)
    assert max(map(len, parts)) == 1


def test_token_that_ends_one_character_and_starts_the_next():
    ids = [0xE4, 256, 0xA5, 0xBD, 257, 0x9F, 0x98, 0x80]
    assert stream(Bytes(), ids) == ["", "你", "", "好", "a", "", "", "😀", ""]


def test_end_gives_what_never_became_a_character():
    assert stream(Bytes(), [0x61, 0xE4, 0xBD]) == ["a", "", "", "\ufffd"]


def test_invalid_bytes_are_not_held_back_for_ever():
    parts = stream(Bytes(), [0xFF] * 50 + [0x61])
    assert "".join(parts) == "\ufffd" * 50 + "a"
    assert [len(part) for part in parts[3:50]] == [1] * 47


def test_random_bytes():
    rng = random.Random(2)
    pool = [*"汉é😀".encode(), 0x20, 0x61, 0xFF, 256, 257, 258]
    for _ in range(2000):
        ids = rng.choices(pool, k=rng.randint(1, 24))
        assert "".join(stream(Bytes(), ids)) == Bytes().decode(ids), ids


def test_decoder_can_be_used_again():
    decoder = StreamDecoder(Bytes())
    assert [decoder.put(0xE4), decoder.end(), decoder.put(0x61), decoder.end()] == ["", "\ufffd", "a", ""]


def test_cost_of_a_token_does_not_grow():
    """Each put decodes a short window, however much text is already out."""
    lengths = []

    class Counting(Bytes):
        def decode(self, ids, skip_special_tokens=True):
            lengths.append(len(ids))
            return super().decode(ids)

    stream(Counting(), list(("长文" * 500).encode()))
    assert max(lengths) <= 8

"""A tokenizer's fingerprint: of the ids, not of the files."""

import shutil

import pytest

from glm.tokenizers import GLMTokenizer
from glm.tokenizers.fingerprint import _PROBE, fingerprint

KINDS = ("glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-tiny", "glm-4-9b-0414-tiny")


def test_two_files_of_one_vocabulary_have_the_same():
    found = [fingerprint(GLMTokenizer.from_pretrained(kind)) for kind in KINDS]
    assert found[2] == found[3] and len(set(found)) == 3
    assert all(len(each) == 16 and int(each, 16) for each in found)


def test_two_pieces_that_changed_places(tmp_path):
    """The sample texts do not hold them."""
    own = GLMTokenizer.from_pretrained("glm-4-9b-tiny")
    own.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.model"
    pieces = [line.split()[0] for line in path.read_bytes().splitlines()]
    used = {index for text in _PROBE for index in own.text_ids(text)}
    first, second = [index for index in range(300, len(pieces)) if index not in used][-2:]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    path.write_bytes(b"".join(b"%s %d\n" % (piece, rank) for rank, piece in enumerate(pieces)))
    changed = GLMTokenizer.from_pretrained(tmp_path)
    assert [changed.text_ids(text) for text in _PROBE] == [own.text_ids(text) for text in _PROBE]
    assert fingerprint(changed) != fingerprint(own)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_are_cut_otherwise(kind, monkeypatch):
    own = GLMTokenizer.from_pretrained(kind)
    before, cut = fingerprint(own), own.text_ids
    monkeypatch.setattr(own, "text_ids", lambda text: cut(text.replace("read", "write")))
    assert fingerprint(own) != before


def test_a_copy_has_the_same(tmp_path):
    own = GLMTokenizer.from_pretrained("chatglm-6b-tiny")
    own.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint(GLMTokenizer.from_pretrained(tmp_path / "b")) == fingerprint(own)

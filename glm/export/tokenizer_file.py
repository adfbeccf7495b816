"""tokenizer.bin: a tokenizer, the tokens around its prompts and its chat template in one flat file for C++.

Programs without Python read neither base64 nor Jinja, and should start at once. sentencepiece models stay files of
their own, which the file names. Little-endian throughout; cpp/src/tokenizer/tokenizer_file.cpp reads it:

    "GLMTOK01"
    then sections, each a name of four letters, its length in bytes (uint32), and that many bytes:

    NAME  texts by name: count; of each the length of the name, the name, the length of the text, the text
    IDS_  lists of ids by name: count; of each the length of the name, the name, how many ids, the ids
    ADDD  tokens that are never cut: count; of each its id, flags (1 special, 2 takes white space on its left, 4 on its
          right, 8 has an id of its own, 16 cut out of texts), length, text
    PIEC  pieces of byte-pair encoding in the order of their ids: count; count + 1 offsets; bytes
    MERG  merges in their order, where ranks of pieces do not give it: count; of each left, right and merged id
    CHAR  ranges of code points: count; of each first, last, class (1 letter, 2 number, 3 white space)

Numbers are uint32.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from glm.encoding.chat_formats import CHAT_FORMATS
from glm.encoding.chat_processor import THINKING
from glm.encoding.messages import ROLES
from glm.encoding.plain_chat import plain_chat, without_content
from glm.encoding.processor import Processor
from glm.tokenizers.base import Tokenizer
from glm.tokenizers.byte_pairs import PIECE_PATTERN
from glm.tokenizers.character_classes import character_ranges
from glm.tokenizers.glm4 import BytePairTokenizer

NAME = "tokenizer.bin"
MAGIC = b"GLMTOK01"
_SPECIAL, _LEFT, _RIGHT, _OWN, _WRITTEN = 1, 2, 4, 8, 16
_JSON_MODEL = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False}
_NO_AFFIX = ("continuing_subword_prefix", "end_of_word_suffix")


def tokenizer_file(processor: Processor) -> bytes | None:
    """The content of the file, None for a tokenizer.json of another form than GLM-4's."""
    tokenizer = processor.tokenizer
    sections = {"NAME": _texts(_names(tokenizer)), "IDS_": _lists(_ids(tokenizer)), "ADDD": _added(tokenizer)}
    if isinstance(tokenizer, BytePairTokenizer):
        sections |= {"PIEC": _pieces(tokenizer), "CHAR": _ranges(character_ranges(tokenizer.characters_found))}
        content = tokenizer.json_content
        if content is not None and not _is_known(content):
            return None
        if content is not None:
            sections["MERG"] = _merges(content["model"])
    return MAGIC + b"".join(name.encode() + _sized(content) for name, content in sections.items())


def _names(tokenizer) -> dict[str, str]:
    names = {"kind": tokenizer.kind}
    if hasattr(tokenizer, "_pieces"):
        names["model"] = tokenizer.vocabulary_file
    if not isinstance(tokenizer, Tokenizer):
        return names
    names |= {f"behind {token.text}": token.behind for token in tokenizer.written_tokens if token.behind}
    variables = tokenizer.readable_variables()
    names["chat variables"] = ", ".join(sorted(variables)) or "none"
    if CHAT_FORMATS[tokenizer.kind].roles != ROLES:
        return names
    names |= _chat("", tokenizer)
    if THINKING in variables:
        for mode, enabled in (("on ", True), ("off ", False)):
            names |= _chat(mode, tokenizer.with_template_variables({THINKING: enabled}))
    return names


def _chat(mode: str, tokenizer: Tokenizer) -> dict[str, str]:
    """What a chat template writes, with thinking, without, or where nobody says which; {} if it is no plain one."""
    chat = plain_chat(tokenizer)
    if chat is None:
        return {}
    names = {f"{before}>{after}": text for (before, after), text in chat.joints.items()}
    names |= {"strips": "answers"} if chat.strips else {}
    names |= {"question end": chat.question_end} if chat.question_end else {}
    if (empty := without_content(tokenizer)) is not None:
        names["empty"] = empty
    return {f"chat {mode}{name}": text for name, text in names.items()}


def _ids(tokenizer) -> dict[str, Sequence[int]]:
    chat = isinstance(tokenizer, Tokenizer)
    framed = tokenizer.build_inputs([]) if chat else []
    blank = [tokenizer.gmask_token_id, tokenizer.eos_token_id, tokenizer.sop_token_id]
    prefix, suffix = (framed[: len(tokenizer.prefix)], framed[len(tokenizer.prefix) :]) if chat else ([], blank)
    return {
        "prefix": prefix if chat else [tokenizer.cls_token_id],
        "suffix": suffix,
        "stop": tokenizer.stop_token_ids,
        "pad": [tokenizer.pad_token_id],
        "masks": getattr(tokenizer, "mask_token_ids", []),
        "special": tokenizer.all_special_ids,
        "size": [tokenizer.vocab_size, len(tokenizer)],
        # Whether a word that is a piece is taken whole, whatever its merges are.
        "whole words": [int(isinstance(tokenizer, BytePairTokenizer) and tokenizer.takes_whole_words)],
    }


def _added(tokenizer) -> bytes:
    """Every token that a text is cut at, and those that have an id outside of the pieces' encoding."""
    entries = []
    if not isinstance(tokenizer, Tokenizer):
        texts = {*tokenizer.all_special_tokens, *tokenizer.special_tokens.in_order, *tokenizer.added_tokens}
        special = set(tokenizer.all_special_ids)
        for text in sorted(texts):
            index = tokenizer.convert_tokens_to_ids(text)
            flags = _SPECIAL * (index in special) | _LEFT | _RIGHT | _OWN * (text in tokenizer.added_tokens) | _WRITTEN
            entries.append((index, flags, text))
    else:
        written = {token.text: token for token in tokenizer.written_tokens}
        for text, index in tokenizer.added_tokens.items():
            token = written.get(text)
            sides = _LEFT * token.lstrip | _RIGHT * token.rstrip | _WRITTEN if token else 0
            # Of tokens that no text may spell it does not matter whether marks hide them.
            flags = _SPECIAL * (token.special if token else True) | sides | _OWN
            entries.append((index, flags, text))
    return _u32(len(entries)) + b"".join(
        _u32(index, flags) + _sized(text.encode()) for index, flags, text in sorted(entries)
    )


def _pieces(tokenizer) -> bytes:
    pieces = [tokenizer._piece_bytes(index) for index in range(tokenizer.vocab_size)]
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    return _u32(len(pieces), *offsets) + b"".join(pieces)


def _merges(model: Mapping) -> bytes:
    ids, rows = model["vocab"], []
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rows.append((ids[left], ids[right], ids[left + right]))
    return _u32(len(rows), *(index for row in rows for index in row))


def _is_known(content: Mapping) -> bool:
    """Whether a tokenizer.json does what GLM-4's does, and nothing else."""
    model, cutters = content["model"], (content.get("pre_tokenizer") or {}).get("pretokenizers") or []
    if any(model.get(name, value) != value for name, value in _JSON_MODEL.items()) or content.get("normalizer"):
        return False
    if any(model.get(name) for name in _NO_AFFIX) or [each["type"] for each in cutters] != ["Split", "ByteLevel"]:
        return False
    split, level = cutters
    cuts = split["pattern"] == {"Regex": PIECE_PATTERN} and split["behavior"] == "Isolated" and not split["invert"]
    plain = not level["add_prefix_space"] and not level["use_regex"]
    decodes = (content.get("decoder") or {}).get("type") == "ByteLevel"
    vocab = model["vocab"]
    return cuts and plain and decodes and sorted(vocab.values()) == [*range(len(vocab))]


def _texts(texts: Mapping[str, str]) -> bytes:
    return _u32(len(texts)) + b"".join(_sized(name.encode()) + _sized(text.encode()) for name, text in texts.items())


def _lists(lists: Mapping[str, Sequence[int]]) -> bytes:
    return _u32(len(lists)) + b"".join(_sized(name.encode()) + _u32(len(ids), *ids) for name, ids in lists.items())


def _ranges(ranges: Sequence[tuple[int, int, int]]) -> bytes:
    return _u32(len(ranges), *(number for each in ranges for number in each))


def _sized(content: bytes) -> bytes:
    return _u32(len(content)) + content


def _u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)

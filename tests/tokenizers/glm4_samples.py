"""A vocabulary with the size and special ids of GLM-4-9B's, for tests that pin ids: its own file is not at hand.

Ids of single bytes, and those named in PIECES, are the real ones (real/reference_ids); all others are fillers.
"""

import base64

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTES = [*PRINTABLE, *(byte for byte in range(256) if byte not in PRINTABLE)]
PIECE_COUNT = 151329
PIECES = {
    b"\xf0\x9f": 9281,
    **{
        text.encode(): index
        for text, index in {
            "你好": 109377, "！": 6313, "很高兴": 118295, "见到": 103810, "你": 98406, "，": 3837, "有什么": 101665,
            "可以帮助": 110368, "你的": 99444, "吗": 99212, "？": 11314, "晚上": 101160, "睡不着": 120410,
            "应该": 99379, "怎么办": 103298, "An": 2082, " increasing": 7703, " sequence": 8499, " one": 825,
            " two": 1378, " three": 2326, "33": 100702, "333": 121577, "..": 496, "...": 1112, " I": 358, "'ve": 3003,
            " been": 1012, " '": 364, "old": 813, " he": 566, "'s": 594, " there": 1052, "RE": 787, " you": 498,
            " sure": 2704, " not": 537, "'ll": 3278, " make": 1281, " it": 432, " like": 1075, " some": 1045,
            " tea": 15231, " We": 1205, "Ve": 42368, " a": 264, "'l": 63409,
        }.items()
    },
}  # fmt: skip
EXAMPLE = "An increasing sequence: one, two, three."
EXAMPLE_IDS = [2082, 7703, 8499, 25, 825, 11, 1378, 11, 2326, 13]
# Two stretches of the text with which llama.cpp tells tokenizers apart: where digits and contractions are cut.
DIGITS = " 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3"
DIGIT_IDS = [
    *(220, 18, 220, 100702, 220, 121577, 220, 121577, 18, 220, 121577, 100702, 220, 121577, 121577),
    *(220, 121577, 121577, 18, 220, 121577, 121577, 100702, 220, 18, 13, 18, 220, 18, 496, 18, 220, 18, 1112, 18),
]
WORDS = " I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
WORD_IDS = [
    *(358, 3003, 1012, 364, 83, 813, 566, 594, 1052, 11, 364, 787, 498, 2704, 30, 364, 44, 537, 2704, 358, 3278, 1281),
    *(432, 11, 364, 35, 498, 1075, 1045, 15231, 30, 1205, 6, 42368, 264, 63409, 43),
]
CHAT = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好👋！很高兴见到你，有什么可以帮助你的吗？"},
    {"role": "user", "content": "晚上睡不着应该怎么办"},
]
GREETING_IDS = [109377, 9281, 239, 233, 6313, 118295, 103810, 98406, 3837, 101665, 110368, 99444, 99212, 11314]
QUESTION_IDS = [101160, 120410, 99379, 103298]
CHAT_IDS = [151331, 151333, 151336, 198, 109377, 151337, 198, *GREETING_IDS, 151336, 198, *QUESTION_IDS, 151337]


def ranks() -> bytes:
    """The content of a tokenizer.model."""
    taken = {index: piece for piece, index in PIECES.items()} | {i: bytes([byte]) for i, byte in enumerate(BYTES)}
    # Byte-pair encoding reaches a piece step by step, so its beginnings need a rank too, lower than its own.
    starts = sorted({piece[:n] for piece in PIECES for n in range(2, len(piece))} - {*PIECES}, key=len)
    free = iter(index for index in range(256, PIECE_COUNT) if index not in taken)
    taken |= {next(free): piece for piece in starts}
    lines = [_line(taken.get(index) or b"\x00\x01 %d" % index, index) for index in range(PIECE_COUNT)]
    return b"".join(lines)


def _line(piece: bytes, rank: int) -> bytes:
    return base64.b64encode(piece) + b" %d\n" % rank

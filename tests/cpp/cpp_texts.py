"""Texts that tokenizers have trouble with, and those of the data that comes with the project or lies beside it."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from shared_files import SHARED

DATA = Path(__file__).resolve().parents[2] / "data"
NASTY = (
    "",
    " ",
    "  a  b   c",
    "\n",
    "\r\n\r\n",
    "a\n\nb \n c\t\t d\n",
    "end  \n",
    "  \n  \n x",
    "I've WE'RE don'T 'S 'ſ 'll 'Ll 'lx 'r 'rE '",
    "''s ' s !'s",
    "1234567890 12 345",
    "٣٤٥٦ ①②③④ ⅧⅨ x²",
    "Ünïcödé ﬁ ﬀ Ａｂｃ１２３　全角",
    "ἈΡΧΉ Привет, мир! שלום العربية हिन्दी ไทย 한국어 かな",
    "👨‍👩‍👧 🏳️‍🌈 🇨🇳🇺🇸 e\u0301",
    "\u180e\u200b\u2028\u2029\u0085\xa0\u3000x\u1680 \x1c\x1f\x00\x7f",
    "\u1c89\ua7cb\U00010d4a\U0001e5d0\U000323af\U0002ebf0 new letters",
    "<|user|>[gMASK] <sop><eop><|endoftext|>[MASK] a [sMASK]b <|assistant|>\n",
    "[gMASK]sop sop[gMASK] sop sop[MASK]sop eop<|system|>\n a<|observation|>[gMASK]\ufdd0sop",
    "<think> a</think>/nothink<tool_call>f<arg_key>a</arg_key><arg_value>/nothin</tool_response><|begin_of_box|>",
    "<0x0A><0xE5>\u2581 \u2581\u2581a",
    "<n><|tab|><|blank_3|></s><s><unk><pad> <|blank_81|>",
    "a" + " " * 79 + "b" + " " * 80 + "c" + " " * 81 + "d" + " " * 200,
    "[CLS] x [SEP] y [UNK] z [UNUSED1] [UNUSED2]<|startofpiece|> <|endofpiece|>",
    "，。！？；：“”‘’【】（）《》—…·",
    "don't,stop!:;?中,文!a:b;c?",
    "{% for x in y %}{{ x }}{% endfor %}",
    "\ufdd0<\ufdd0|user|>\ufdd1",
    "x" * 300 + "é" * 300,
    "\U0010ffff\ufffd\ufffe",
)


def samples() -> Iterator[str]:
    """Every text of data/, and of the real data where it is there."""
    for path in sorted(DATA.rglob("*.json*")):
        if "tiny" not in str(path):
            yield from _texts_of(path)
    for path in sorted((SHARED / "real" / "datasets").glob("*.json*")):
        yield from _texts_of(path)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Of white space, letters, digits and signs of many scripts, mixed at random."""
    draw = random.Random(seed)
    alphabet = " \n\r\t'abSsTLl0123.,!é中文字，١ſ\u180e\u3000\u2028\U00031350😀\u0301<|>"
    ranges = ((0x20, 0x250), (0x370, 0x600), (0x2000, 0x2100), (0x3000, 0x3100), (0x4E00, 0x4F00), (0x1F600, 0x1F650))
    texts = []
    for _ in range(count):
        pool = alphabet if draw.random() < 0.6 else [chr(draw.randrange(*draw.choice(ranges))) for _ in range(30)]
        texts.append("".join(draw.choice(pool) for _ in range(draw.randrange(1, 60))))
    return texts


def _texts_of(path: Path) -> Iterator[str]:
    content = path.read_text(encoding="utf-8")
    try:
        rows = [json.loads(content)]
    except ValueError:
        rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    yield from _strings(rows)


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)

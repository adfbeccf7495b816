"""Make the tiny vocabularies of the presets chatglm-tiny, glm4-tiny and glm4-0414-tiny from the bundled samples.

    python data/train_family_vocabularies.py [--output DIR]

Each has the make-up of the real one, and its special tokens: ChatGLM-6B's sentencepiece file (unigram, nmt_nfkc, bytes
as fallback, layout pieces), GLM-4-9B's tiktoken ranks, GLM-4-0414's tokenizer.json. The two GLM-4 vocabularies hold the
same pieces. Names stay in single characters, so that a model can copy a name it has never seen.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]

from train_vocabulary import BOUNDARY, training_text  # noqa: E402

from glm.files.atomic import write_bytes  # noqa: E402
from glm.files.json_files import CONFIG_FILE  # noqa: E402
from glm.tokenizers import ChatGLMTokenizer, GLM4JsonTokenizer, GLM4Tokenizer, GLMTokenizer  # noqa: E402
from glm.tokenizers.byte_pairs import PIECE_PATTERN  # noqa: E402
from glm.tokenizers.chatglm import LAYOUT  # noqa: E402
from glm.tokenizers.glm4 import SPECIAL_TOKENS  # noqa: E402
from glm.tokenizers.kept_files import TEMPLATE_FILE  # noqa: E402

CHATGLM_CONTROL = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
CHATGLM_PIECES = 800
GLM4_PIECES = 754

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_CHARACTERS = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(0x100 + n) for n, byte in enumerate(OTHERS)}

# Written for this project: role tokens and tools where the real templates have them.
GLM4_TEMPLATE = """\
[gMASK]<sop>{% for message in messages %}\
{% if message.tools is defined %}<|system|>
可用的工具：{% for tool in message.tools %}

{{ tool | tojson(indent=4) }}{% endfor %}{% endif %}\
{% if message.content %}<|{{ message.role }}|>{{ message.metadata }}
{{ message.content }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
GLM4_0414_TEMPLATE = """\
[gMASK]<sop>
{%- if tools %}
<|system|>
可用的工具：
    {%- for tool in tools %}


{{ tool.function | default(tool) | tojson(indent=4, ensure_ascii=False) }}
    {%- endfor %}
{%- endif %}
{%- for message in messages if message.role == 'system' %}
<|system|>
{{ message.content }}
{%- endfor %}
{%- for message in messages if message.role != 'system' %}
<|{{ message.role }}|>{{ message.metadata | default('') }}
{{ message.content }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}
"""


def chatglm_model() -> bytes:
    """The serialised sentencepiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text.replace("\n", "<n>") for text in training_text()),
        model_writer=model,
        model_type="unigram",
        vocab_size=CHATGLM_PIECES,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        pad_id=3,
        control_symbols=CHATGLM_CONTROL,
        user_defined_symbols=list(LAYOUT.values()),
        pretokenization_delimiter=BOUNDARY,
        byte_fallback=True,
        split_digits=True,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def byte_merges() -> list[tuple[bytes, bytes]]:
    """GLM4_PIECES - 256 merges of pieces: first bytes to every character of the samples, then characters to words.

    No piece holds a part of a character and something else; so a name is the same pieces wherever it stands.
    """
    cut = [pre_tokenizers.Split(BOUNDARY, "removed"), pre_tokenizers.Split(tokenizers.Regex(PIECE_PATTERN), "isolated")]
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(vocab_size=GLM4_PIECES, show_progress=False))
    characters = sorted(set("".join(training_text())) - {BOUNDARY})
    spelt = (character.encode() for character in characters)
    merges = {text[: n + 1]: (text[:n], text[n : n + 1]) for text in spelt for n in range(1, len(text))}
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        merges.setdefault((left + right).encode(), (left.encode(), right.encode()))
    return list(merges.values())[: GLM4_PIECES - 256]


def byte_pair_encoding(merges: list[tuple[bytes, bytes]]) -> tokenizers.Tokenizer:
    """A tokenizer of the library `tokenizers`: a byte is its own id, merges and special tokens follow."""
    pieces = [*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    vocabulary = {in_characters(piece): index for index, piece in enumerate(pieces)}
    pairs = [(in_characters(left), in_characters(right)) for left, right in merges]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PIECE_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer


def ranks(merges: list[tuple[bytes, bytes]]) -> bytes:
    """The same pieces as tiktoken ranks: what is merged first ranks first."""
    pieces = [*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces))


def in_characters(piece: bytes) -> str:
    """Byte-level spelling: printable bytes as themselves, the others as the characters from U+0100 on."""
    return "".join(BYTE_CHARACTERS[byte] for byte in piece)


def write_chatglm(folder: Path) -> None:
    write_bytes(folder / ChatGLMTokenizer.vocabulary_file, chatglm_model())
    write_bytes(folder / CONFIG_FILE, json.dumps(dict(ChatGLMTokenizer.default_config), ensure_ascii=False).encode())


def write_glm4(folder: Path, merges: list[tuple[bytes, bytes]]) -> None:
    write_bytes(folder / GLM4Tokenizer.vocabulary_file, ranks(merges))
    write_bytes(
        folder / CONFIG_FILE,
        json.dumps(
            glm4_config(GLM4Tokenizer.default_config) | {"chat_template": GLM4_TEMPLATE}, ensure_ascii=False
        ).encode(),
    )


def write_glm4_0414(folder: Path, merges: list[tuple[bytes, bytes]]) -> None:
    content = byte_pair_encoding(merges).to_str(pretty=False).encode()
    write_bytes(folder / GLM4JsonTokenizer.vocabulary_file, content)
    write_bytes(
        folder / CONFIG_FILE, json.dumps(glm4_config(GLM4JsonTokenizer.default_config), ensure_ascii=False).encode()
    )
    write_bytes(folder / TEMPLATE_FILE, GLM4_0414_TEMPLATE.encode())


def glm4_config(defaults: dict) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    decoder = {str(GLM4_PIECES + i): {"content": text, **flags} for i, text in enumerate(SPECIAL_TOKENS)}
    return {**defaults, "added_tokens_decoder": decoder, "additional_special_tokens": list(SPECIAL_TOKENS)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the vocabularies of the tiny ChatGLM and GLM-4 presets.")
    parser.add_argument("--output", type=Path, default=ROOT / "data", help="folder to write to (default: %(default)s)")
    output = parser.parse_args().output
    merges = byte_merges()
    writers = {
        "chatglm-tiny": write_chatglm,
        "glm4-tiny": lambda folder: write_glm4(folder, merges),
        "glm4-0414-tiny": lambda folder: write_glm4_0414(folder, merges),
    }
    for name, write in writers.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        write(output / name)
        tokenizer = GLMTokenizer.from_pretrained(output / name)
        size = sum(path.stat().st_size for path in (output / name).iterdir())
        print(f"{output / name}: {tokenizer.vocab_size} pieces, {len(tokenizer)} ids, {size} bytes")


if __name__ == "__main__":
    main()

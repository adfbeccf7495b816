"""Make the tiny vocabularies of the tiny presets but glm-tiny-chinese's from the bundled samples.

    python data/train_family_vocabularies.py [--output DIR]

Each has the make-up of the real one, and its special tokens: ChatGLM-6B's sentencepiece file (unigram, nmt_nfkc, bytes
as fallback, layout pieces), that of ChatGLM2 and 3 (byte-pair encoding, texts as they are, bytes as fallback),
GLM-4-9B's tiktoken ranks, GLM-4-0414's and GLM-4.5's tokenizer.json. The GLM-4 ones hold the same pieces, but for a few
that glm47-tiny lacks, so that its special tokens have other ids than glm45-tiny's. Names stay in single characters, so
that a model can copy a name it has never seen.
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
from glm.tokenizers import (  # noqa: E402
    ChatGLM2Tokenizer,
    ChatGLM3Tokenizer,
    ChatGLMTokenizer,
    GLM4JsonTokenizer,
    GLM4Tokenizer,
    GLM45Tokenizer,
    GLMTokenizer,
)
from glm.tokenizers.byte_pairs import PIECE_PATTERN  # noqa: E402
from glm.tokenizers.chatglm import LAYOUT  # noqa: E402
from glm.tokenizers.glm4 import GLM45_TOKENS, MARKUP, SPECIAL_TOKENS  # noqa: E402
from glm.tokenizers.glm45_templates import GLM45_TEMPLATE, GLM47_TEMPLATE  # noqa: E402
from glm.tokenizers.kept_files import TEMPLATE_FILE  # noqa: E402

CHATGLM_CONTROL = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
CHATGLM_PIECES = 800
CHATGLM2_PIECES = 823  # and nine special tokens
GLM4_PIECES = 754
GLM47_PIECES = 748

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


def chatglm2_model() -> bytes:
    """The serialised sentencepiece model of ChatGLM2 and 3, to which line ends are bytes: 13."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in training_text() for line in text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=CHATGLM2_PIECES,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
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


def byte_pair_encoding(
    merges: list[tuple[bytes, bytes]], added: tuple[str, ...] = SPECIAL_TOKENS
) -> tokenizers.Tokenizer:
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
    for text in added:
        special = text not in MARKUP
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(
            [tokenizers.AddedToken(text, normalized=False, special=special)]
        )
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


def write_chatglm2(folder: Path, model: bytes, kind: type[ChatGLM2Tokenizer]) -> None:
    write_bytes(folder / kind.vocabulary_file, model)
    write_bytes(folder / CONFIG_FILE, json.dumps(dict(kind.default_config), ensure_ascii=False).encode())


def write_glm4(folder: Path, merges: list[tuple[bytes, bytes]]) -> None:
    write_bytes(folder / GLM4Tokenizer.vocabulary_file, ranks(merges))
    write_bytes(
        folder / CONFIG_FILE,
        json.dumps(
            glm4_config(GLM4Tokenizer.default_config) | {"chat_template": GLM4_TEMPLATE}, ensure_ascii=False
        ).encode(),
    )


def write_glm4_0414(folder: Path, merges: list[tuple[bytes, bytes]]) -> None:
    config = glm4_config(GLM4JsonTokenizer.default_config)
    _write_json(folder, byte_pair_encoding(merges), config, GLM4_0414_TEMPLATE)


def glm4_config(defaults: dict, added: tuple[str, ...] = SPECIAL_TOKENS) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    decoder = {
        str(GLM4_PIECES + i): {"content": text, **flags, "special": text not in MARKUP} for i, text in enumerate(added)
    }
    special = [text for text in added if text not in GLM45_TOKENS[4:]]
    return {**defaults, "added_tokens_decoder": decoder, "additional_special_tokens": special}


def write_glm45(folder: Path, merges: list[tuple[bytes, bytes]]) -> None:
    added = (*SPECIAL_TOKENS, *GLM45_TOKENS)
    config = glm4_config(GLM45Tokenizer.default_config, added)
    _write_json(folder, byte_pair_encoding(merges, added), config, GLM45_TEMPLATE)


def write_glm47(folder: Path, merges: list[tuple[bytes, bytes]]) -> None:
    """As transformers 5 writes such directories."""
    added = (*SPECIAL_TOKENS, *GLM45_TOKENS)
    config = {"backend": "tokenizers", **GLM45Tokenizer.default_config, "tokenizer_class": "TokenizersBackend"}
    config["extra_special_tokens"] = [*SPECIAL_TOKENS, *GLM45_TOKENS[:4]]
    _write_json(folder, byte_pair_encoding(merges[: GLM47_PIECES - 256], added), config, GLM47_TEMPLATE)


def _write_json(folder: Path, library: tokenizers.Tokenizer, config: dict, template: str) -> None:
    write_bytes(folder / GLM4JsonTokenizer.vocabulary_file, library.to_str(pretty=False).encode())
    write_bytes(folder / CONFIG_FILE, json.dumps(config, ensure_ascii=False).encode())
    write_bytes(folder / TEMPLATE_FILE, template.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the vocabularies of the tiny ChatGLM and GLM-4 presets.")
    parser.add_argument("--output", type=Path, default=ROOT / "data", help="folder to write to (default: %(default)s)")
    output = parser.parse_args().output
    merges, pieces = byte_merges(), chatglm2_model()
    writers = {
        "chatglm-tiny": write_chatglm,
        "chatglm2-tiny": lambda folder: write_chatglm2(folder, pieces, ChatGLM2Tokenizer),
        "chatglm3-tiny": lambda folder: write_chatglm2(folder, pieces, ChatGLM3Tokenizer),
        "glm4-tiny": lambda folder: write_glm4(folder, merges),
        "glm4-0414-tiny": lambda folder: write_glm4_0414(folder, merges),
        "glm45-tiny": lambda folder: write_glm45(folder, merges),
        "glm47-tiny": lambda folder: write_glm47(folder, merges),
    }
    for name, write in writers.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        write(output / name)
        tokenizer = GLMTokenizer.from_pretrained(output / name)
        size = sum(path.stat().st_size for path in (output / name).iterdir())
        print(f"{output / name}: {tokenizer.vocab_size} pieces, {len(tokenizer)} ids, {size} bytes")


if __name__ == "__main__":
    main()

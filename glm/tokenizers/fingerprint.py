"""A short name for what a tokenizer does, so that ids on the disk are known to be of it."""

from __future__ import annotations

import hashlib

from glm.tokenizers.calls import TokenizerCalls

# Tokenizers of one vocabulary may normalise, cut words, keep white space, spell bytes and special tokens differently.
_PROBE = (
    "Pretraining reads text: it's 1234567 tokens, isn't it?\n\n\tdef f(x):\n        return x ** 2  # αβγ\r\n",
    "从大量文本中学习语言，２０２４年１２月。「祥信塔」共有９层！\u3000全角　空格…… é e\u0301 ﬁ ①\u200b\x00",
    "🙂👩\u200d🔬 한국어 русский عربي",
    "[MASK] [gMASK] <sop> <eop> <|endoftext|> <|user|> <n> <|blank_3|> [CLS] [SEP] </s>",
)


def fingerprint(tokenizer: TokenizerCalls) -> str:
    """16 hexadecimal digits of every id's text and of the ids of a few texts.

    The same vocabulary has the same fingerprint from each of its files: `tokenizer.model` of GLM-4-9B, the
    `tokenizer.json` of its -hf directory.
    """
    digest = hashlib.sha256()
    for index in range(len(tokenizer)):
        digest.update(tokenizer.text_of([index], skip_special_tokens=False).encode("utf-8", "surrogatepass") + b"\0")
    for text in _PROBE:
        digest.update(repr(tokenizer.text_ids(text)).encode())
    return digest.hexdigest()[:16]

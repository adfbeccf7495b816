"""Train the tiny vocabulary of preset glm-tiny-chinese on the bundled samples.

    python data/train_vocabulary.py [--output DIR]

Same kind of file as the 50,000 pieces of cog-pretrain.model: byte-pair encoding, nmt_nfkc normalisation, `<n>` as the
only user-defined piece, special tokens not among the pieces but added behind them. Every character of the samples is a
piece, and a name is always spelt in single characters, so a model can copy a name it has never seen.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]

from make_samples import NAME_CHARACTERS  # noqa: E402

from glm.datasets.prompts import CONVERSATION, INSTRUCTION, QUESTION_GENERATION  # noqa: E402
from glm.tokenizers import GLMChineseTokenizer  # noqa: E402

# With the ten special tokens 384 ids.
PIECES = 374
# Merges stop at this character; it stands around every name character and in no sample.
BOUNDARY = "\u241f"
FORMATS = {
    "dureader_qg": QUESTION_GENERATION,
    "bellegroup/school_math_0.25M": INSTRUCTION,
    "bellegroup/multiturn_chat_0.8M": CONVERSATION,
}


def training_text() -> Iterator[str]:
    """Sources and targets of all train rows, name characters fenced by BOUNDARY."""
    fences = {ord(character): f"{BOUNDARY}{character}{BOUNDARY}" for character in NAME_CHARACTERS}
    for folder, task_format in FORMATS.items():
        with (ROOT / "data" / folder / "train.json").open(encoding="utf-8") as stream:
            for line in stream:
                example = task_format.example(json.loads(line))
                yield example.source.translate(fences)
                yield example.target.translate(fences)


def train_vocabulary() -> bytes:
    """The serialised sentencepiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=training_text(),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["<n>"],
        pretokenization_delimiter=BOUNDARY,
        split_digits=True,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the vocabulary of preset glm-tiny-chinese.")
    default = ROOT / "data" / "glm-tiny-chinese"
    parser.add_argument("--output", type=Path, default=default, help="folder to write to (default: %(default)s)")
    output = parser.parse_args().output
    model = train_vocabulary()
    tokenizer = GLMChineseTokenizer(model)
    tokenizer.save_pretrained(output)
    print(f"{output}: {tokenizer.piece_count} pieces, {len(tokenizer)} ids with special tokens, {len(model)} bytes")


if __name__ == "__main__":
    main()

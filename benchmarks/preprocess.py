"""Raw text to indexed data: this project's preprocess_data.py beside PaddleNLP's tool, on one core.

    python -m benchmarks.preprocess --tokenizer glm=/models/glm-large-chinese

The same JSON Lines, the same tokenizer files, data sets written by both, in turns; processor time counts, so that what
else runs on the machine matters less. PaddleNLP's tool is not in its wheel: its side does what that tool does for a
document (json.loads, runs of one character shortened, `tokenize` and `convert_tokens_to_ids` of PaddleNLP's own class,
the end of text appended, PaddleNLP's MMapIndexedDatasetBuilder) in one process, without its pool and its pickling, and
without loading the tokenizer. This side is a whole run with one worker: tokenizer, checks, record and fsync included.
"""

import argparse
import json
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import glm
from glm.datasets.documents import Documents, input_files
from glm.datasets.indexed import IndexedDataset, beside, id_dtype
from glm.datasets.preprocess import Preprocessing, preprocess
from glm.datasets.tokenized import EncodingOptions
from glm.errors import GLMError
from glm.files.atomic import write_json
from glm.tokenizers import GLMTokenizer
from glm.tokenizers.registry import find_format
from glm.tokenizers.source import tokenizer_directory

glm.tune()  # as the scripts

ROOT = Path(__file__).resolve().parents[1]
# PaddleNLP's class for each kind of tokenizer; it has none for GLM-4-9B's tokenizer.model.
PEERS = {
    "cog-pretrain.model": "GLMChineseTokenizer",
    "ice_text.model": "ChatGLMTokenizer",
    "tokenizer.json": "PretrainedTokenizerFast",
}
TOKENIZERS = ("glm-tiny-chinese", "chatglm-6b-tiny", "glm-4-9b-0414-tiny")
_REPEATED = re.compile(r"(.)\1{100,}")


@dataclass(frozen=True)
class Measured:
    """Of a tokenizer: seconds of processor time of each run, and in how many documents both have the same ids."""

    tokenizer: str
    documents: int
    bytes: int
    tokens: int
    same: int
    ours: list[float]
    theirs: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster this project is, by the medians."""
        return statistics.median(self.theirs) / statistics.median(self.ours)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".preprocess-", dir=options.output.parent) as folder:
            text = Path(folder, "text.jsonl")
            prepare(options.text, options.copies, text)
            with tqdm(options.tokenizer, desc="measure", unit=" tokenizers", leave=False) as tokenizers:
                measured = [measure(*named(each), text, options.runs) for each in tokenizers]
        command = shlex.join([sys.executable, "-m", "benchmarks.preprocess", *arguments])
        write_json(options.output, {"command": command, "tokenizers": [asdict(each) for each in measured]})
    except (GLMError, OSError) as error:
        print(f"benchmarks.preprocess: {error}", file=sys.stderr)
        return 1
    show(measured)
    print(f"written: {options.output}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preprocess", description=__doc__, formatter_class=form)
    parser.add_argument(
        "--tokenizer",
        nargs="+",
        default=list(TOKENIZERS),
        metavar="[NAME=]DIRECTORY",
        help="default: the tiny presets'",
    )
    parser.add_argument(
        "--text", nargs="+", default=[str(ROOT / "data" / "pretrain")], help="default: the bundled text"
    )
    parser.add_argument("--copies", type=int, default=40, help="of the text, in a row (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each side (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/preprocess.json"), help="default: %(default)s")
    return parser.parse_args(arguments)


def named(given: str) -> tuple[str, str]:
    """(name, directory or preset) of a --tokenizer."""
    name, _, directory = given.rpartition("=")
    return name or directory, directory


def prepare(inputs: list[str], copies: int, target: Path) -> None:
    """One file of rows that PaddleNLP's tool leaves as they are: it strips texts and shortens runs of a character."""
    texts = [_REPEATED.sub(r"\1", each.texts[0]).strip() for each in Documents(input_files(inputs), ["text"])]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts if text)
    target.write_text(lines * copies, encoding="utf-8")


def measure(name: str, tokenizer: str, text: Path, runs: int) -> Measured:
    """Both sides in turns, after a run of each that does not count.

    Raises:
        GLMError: no tokenizer is there, or one that PaddleNLP has no class for.
    """
    ours, theirs = text.with_name("ours_text_document"), text.with_name("theirs")
    sides = (lambda: run_ours(tokenizer, text), their_side(tokenizer, text, theirs))
    for side in sides:
        side()
    seconds = [[processor_seconds(side) for side in sides] for _ in range(runs)]
    own, peer = IndexedDataset(ours), IndexedDataset(theirs)
    same = sum(len(a) == len(b) and bool((a == b).all()) for a, b in zip(own, peer, strict=True))
    counts = len(own), text.stat().st_size, own.token_count, same
    return Measured(name, *counts, *map(list, zip(*seconds, strict=True)))


def processor_seconds(side: Callable[[], object]) -> float:
    started = time.process_time()
    side()
    return time.process_time() - started


def run_ours(tokenizer: str, text: Path) -> None:
    options = EncodingOptions(tokenizer, append_eos=True)
    preprocess(Preprocessing([str(text)], str(text.with_name("ours")), options, overwrite=True))


def their_side(tokenizer: str, text: Path, prefix: Path) -> Callable[[], None]:
    """What PaddleNLP's tool does, once its tokenizer is there: loading it took long, and does not count."""
    directory = tokenizer_directory(tokenizer)
    kind = find_format(directory).vocabulary_file
    if kind not in PEERS:
        raise GLMError(f"{directory}: PaddleNLP has no tokenizer for {kind}: choose another directory")
    import paddlenlp.transformers
    from paddlenlp.data.indexed_dataset import MMapIndexedDatasetBuilder
    from paddlenlp.utils.log import logger

    logger.logger.setLevel("ERROR")
    with redirect_stdout(StringIO()):
        peer = getattr(paddlenlp.transformers, PEERS[kind]).from_pretrained(str(directory))
    dtype = id_dtype(len(GLMTokenizer.from_pretrained(tokenizer))).type  # so that both write as many bytes

    def run() -> None:
        builder = MMapIndexedDatasetBuilder(str(beside(prefix, ".bin")), dtype=np.dtype(dtype).type)
        with text.open(encoding="utf-8") as lines:
            for line in lines:
                found = _REPEATED.sub(r"\1", json.loads(line)["text"])
                ids = peer.convert_tokens_to_ids(peer.tokenize(found.strip()))
                if ids:
                    ids.append(peer.eos_token_id)
                    builder.add_item(ids)
                    builder.end_document()
        with redirect_stdout(StringIO()):
            builder.finalize(str(beside(prefix, ".idx")))

    return run


def show(measured: list[Measured]) -> None:
    table = Table(title="raw text to indexed data, one core, processor time", title_justify="left")
    columns = ("tokenizer", "text", "same ids", "PaddleNLP", "this project", "times faster", "slowest, fastest run")
    for column in columns:
        table.add_column(column, justify="left" if column == "tokenizer" else "right")
    for each in measured:
        theirs, ours = (each.bytes / statistics.median(seconds) / 1e6 for seconds in (each.theirs, each.ours))
        spread = " to ".join(f"{each.bytes / 1e6 / found:.2f}" for found in (max(each.ours), min(each.ours)))
        same = f"{each.same:,} of {each.documents:,}"
        cells = f"{each.bytes / 1e6:.1f} MB", same, f"{theirs:.2f} MB/s", f"{ours:.2f} MB/s", f"{each.ratio:.1f}"
        table.add_row(each.tokenizer, *cells, spread)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

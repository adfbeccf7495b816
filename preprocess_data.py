"""Makes indexed data sets of token ids, Megatron's .bin and .idx, from raw text, and joins several to one."""

import argparse

from glm.cli.script import ScriptParser, run_script
from glm.errors import UsageError

DESCRIPTION = """\
Turn raw text into the indexed data sets that pretraining reads: Megatron's and PaddleNLP's .bin and .idx files.

  python preprocess_data.py --input corpus/ --model_name_or_path THUDM/glm-4-9b --output_prefix data/corpus --append_eos
  python preprocess_data.py --input "part-*.jsonl.zst" --json_keys title text --workers 8 …
  python preprocess_data.py --merge data/a_text_document data/b_text_document --output_prefix data/both

The first writes data/corpus_text_document.bin and .idx, and .meta.json beside them: tokenizer and flags. Input is JSON
Lines, JSON, parquet, arrow or plain text, packed (.gz, .bz2, .xz, .zst) or not. Flags may be spelt as Megatron's."""


def parse() -> argparse.Namespace:
    parser = ScriptParser(DESCRIPTION)
    add = parser.add_argument
    add("--input", "--input_path", nargs="+", help="files, folders, or patterns in quotes")
    add("--merge", nargs="+", metavar="PREFIX", help="data sets to join instead, without .bin and .idx, in this order")
    add(
        *("--output_prefix", "--output-prefix"),
        required=True,
        help="begin of the files' names, _{key}_document is added; with --merge all of it",
    )
    names = ("--tokenizer_name_or_path", "--tokenizer-name-or-path", "--tokenizer_name", "--tokenizer-model")
    add("--model_name_or_path", *names, help="a model's directory, or a preset: whose tokenizer to use")
    add(
        *("--json_key", "--json_keys", "--json-keys"),
        nargs="+",
        default=["text"],
        help="fields that hold text, a data set for each",
    )
    add(
        "--sample_by",
        choices=("document", "paragraph", "line"),
        default="document",
        help="a document of a .txt file is the whole of it, a paragraph (blank lines between), or a line",
    )
    eos = ("--append_eos", "--append-eos", "--append_eod", "--append-eod")
    add(*eos, action="store_true", help="end each document with the end-of-text token")
    add(
        *("--add_special_tokens", "--add-special-tokens"),
        action="store_true",
        help="put what the tokenizer puts around a text around each document, [gMASK] <sop> for example",
    )
    add(
        "--split_special_tokens",
        action="store_true",
        help="special tokens that a document spells are text; otherwise they become those tokens, as in Megatron",
    )
    add("--workers", type=_positive, default=1, help="processes that tokenize; the files are the same with any number")
    add("--skip_bad_rows", action="store_true", help="leave rows without text out and count them, instead of stopping")
    add("--overwrite", action="store_true", help="replace data of that name, at the end")
    add(
        *("--log_interval", "--log-interval"),
        type=_positive,
        default=10_000,
        help="about so many documents between two lines of progress; a terminal has a bar",
    )
    kinds = ("PretrainedFromHF", "HuggingFaceTokenizer")
    add("--tokenizer_type", "--tokenizer-type", choices=kinds, help="Megatron's and MindSpeed's; changes nothing")
    add("--data_impl", choices=("mmap",), help="PaddleNLP's; changes nothing")
    add("--data_format", choices=("JSON",), help="PaddleNLP's; changes nothing")
    return _checked(parser.parse_args())


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    if bool(arguments.input) == bool(arguments.merge):
        raise UsageError("pass either --input, text to tokenize, or --merge, data sets to join (see --help)")
    if arguments.input and not arguments.model_name_or_path:
        raise UsageError("--input needs --model_name_or_path: whose tokenizer to use (see --help)")
    if arguments.output_prefix.endswith("/"):
        example = f"{arguments.output_prefix}corpus"
        raise UsageError(f"--output_prefix {arguments.output_prefix} is a folder: add the begin of a name, {example}")
    return arguments


def main() -> None:
    arguments = parse()

    from glm.cli.console import note, print_metrics
    from glm.datasets.preprocess import Preprocessing, merge, preprocess
    from glm.datasets.tokenized import EncodingOptions

    if arguments.merge:
        report = merge(arguments.merge, arguments.output_prefix, overwrite=arguments.overwrite)
    else:
        encoding = EncodingOptions(
            tokenizer=arguments.model_name_or_path,
            append_eos=arguments.append_eos,
            add_special_tokens=arguments.add_special_tokens,
            split_special_tokens=arguments.split_special_tokens,
        )
        settings = Preprocessing(
            inputs=arguments.input,
            output_prefix=arguments.output_prefix,
            encoding=encoding,
            keys=arguments.json_key,
            sample_by=arguments.sample_by,
            skip_bad_rows=arguments.skip_bad_rows,
            workers=arguments.workers,
            overwrite=arguments.overwrite,
            log_interval=arguments.log_interval,
        )
        report = preprocess(settings, show_progress=True)
    for line in report.notes:
        note(line)
    print_metrics(arguments.output_prefix, report.table())


if __name__ == "__main__":
    run_script(main)

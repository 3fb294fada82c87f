"""`pyengine translate`: texts given as arguments, or lines of standard input, to lines of standard output."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from typing import Literal

from pyengine.cli.lines import LineReader
from pyengine.options import TranslationKeywords
from pyengine.results import TranslationResult
from pyengine.tasks.translator import BATCH_TOKENS, Translator, load

__all__ = ["add_command"]

STDIN = 0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "translate",
        help="translate texts, or lines of standard input",
        description="Translates each TEXT, or each line of standard input, to one line of standard output. "
        "Input has to be UTF-8: a file is checked before anything is written; what comes through a pipe is "
        "answered line by line, up to a line that is invalid.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument(
        "--beam-size", type=int, metavar="N", help="beams; 1: greedy (default: the checkpoint's)"
    )
    parser.add_argument("--length-penalty", type=float, metavar="X", help="(default: the checkpoint's)")
    parser.add_argument(
        "--max-decoding-length", type=int, metavar="N", help="tokens of a translation at most"
    )
    parser.add_argument(
        "--max-batch-tokens", type=int, default=BATCH_TOKENS, metavar="N", help="rows of a step"
    )
    parser.add_argument("--truncate", action="store_true", help="cut lines that are too long for the model")
    parser.add_argument(
        "--threads", type=threads, default="auto", metavar="N", help="(default: auto, every CPU that may be used)"
    )
    parser.add_argument(
        "--load", default="copy", metavar="HOW", help="copy the weights to huge pages, or mmap the file (default: copy)"
    )
    parser.add_argument("--compute", metavar="KIND", help="int8 or float32 (default: as DIR holds)")
    parser.set_defaults(run=run)


def threads(text: str) -> int | Literal["auto"]:
    """What --threads takes."""
    return "auto" if text == "auto" else int(text)


def run(options: argparse.Namespace) -> None:
    """Write a line for each text, in order and flushed, as soon as it is there."""
    how = {"threads": options.threads, "compute": options.compute, "load": options.load}
    with load(options.model, **how) as translator:
        results = _translated(translator, options)
        for number, result in enumerate(results, 1):
            _write(result, number)


def _translated(translator: Translator, options: argparse.Namespace) -> Iterable[TranslationResult]:
    search: TranslationKeywords = {
        "beam_size": options.beam_size,
        "length_penalty": options.length_penalty,
        "max_decoding_length": options.max_decoding_length,
    }
    rows, truncate = options.max_batch_tokens, options.truncate
    texts: list[str] = options.texts
    if texts:  # all or nothing
        return translator.translate(texts, max_batch_tokens=rows, truncate=truncate, **search)
    return itertools.chain.from_iterable(
        translator.translate_iter(batch, max_batch_tokens=rows, truncate=truncate, **search)
        for batch in LineReader(STDIN).batches()
    )


def _write(result: TranslationResult, number: int) -> None:
    if result.truncated:
        print(f"pyengine: warning: text {number} was cut to fit the model", file=sys.stderr)
    # One line in, one line out, whatever the model wrote.
    line = " ".join((result.text or "").splitlines())
    sys.stdout.buffer.write(line.encode("utf-8") + b"\n")
    sys.stdout.buffer.flush()

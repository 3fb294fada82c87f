"""`pyengine translate`: texts given as arguments, or lines of standard input, to lines of standard output."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from typing import Literal

from pyengine.cli.lines import LineReader
from pyengine.command import target_of
from pyengine.console import note
from pyengine.errors import OptionError
from pyengine.options import TranslationKeywords
from pyengine.results import TranslationResult
from pyengine.tasks.loading import load
from pyengine.tasks.translator import BATCH_TOKENS, Translator

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
    parser.add_argument("--input", metavar="FILE", help="translate this file, in the way that measures best ...")
    parser.add_argument(
        "--output", metavar="FILE", help="... into this one, which appears when it is complete; - is standard output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
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
    parser.add_argument(
        "--shortlist", metavar="FILE", help="of pyengine shortlist: take only ids that it lists (default: any)"
    )
    parser.add_argument("--compute", metavar="KIND", help="int8 or float32 (default: as DIR holds)")
    parser.set_defaults(run=run)


def threads(text: str) -> int | Literal["auto"]:
    """What --threads takes."""
    return "auto" if text == "auto" else int(text)


def run(options: argparse.Namespace) -> None:
    """Write a line for each text, in order and flushed, as soon as it is there."""
    if (options.input is None) != (options.output is None) or (options.texts and options.input is not None):
        raise OptionError("--input and --output go together, without TEXT")
    how = {"threads": options.threads, "compute": options.compute, "load": options.load}
    with load(options.model, shortlist=options.shortlist, **how) as translator:
        if options.input is not None:
            _translate_file(translator, options)
            return
        results = _translated(translator, options)
        for number, result in enumerate(results, 1):
            _write(result, number)


def _search_options(options: argparse.Namespace) -> TranslationKeywords:
    return {
        "beam_size": options.beam_size,
        "length_penalty": options.length_penalty,
        "max_decoding_length": options.max_decoding_length,
    }


def _translate_file(translator: Translator, options: argparse.Namespace) -> None:
    done = translator.translate_file(
        options.input,
        target_of(options.output),
        overwrite=options.overwrite,
        max_batch_tokens=options.max_batch_tokens,
        truncate=options.truncate,
        **_search_options(options),
    )
    rate = f"{done.tokens / done.seconds:,.0f} a second"
    note(f"{done.lines:,} lines, {done.tokens:,} tokens in {done.seconds:.1f} s ({rate})")
    for trial in done.trials:
        chosen = " <- chosen" if trial.replicas == done.replicas and len(done.trials) > 1 else ""
        way = f"{trial.replicas} streams of {trial.threads} threads"
        note(f"{way}: {trial.tokens_a_second:,.0f} tokens a second{chosen}")


def _translated(translator: Translator, options: argparse.Namespace) -> Iterable[TranslationResult]:
    search = _search_options(options)
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
        note(f"pyengine: warning: text {number} was cut to fit the model")
    # One line in, one line out, whatever the model wrote; and UTF-8, whatever the locale.
    line = " ".join((result.text or "").splitlines())
    sys.stdout.buffer.write(line.encode("utf-8") + b"\n")
    sys.stdout.buffer.flush()

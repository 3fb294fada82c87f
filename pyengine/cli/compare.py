"""`pyengine compare`: what a model directory lost against another, matrix by matrix and over a text."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pyengine.cli.translate import threads
from pyengine.console import note, say, say_json
from pyengine.errors import OptionError
from pyengine.modelfile import ModelDirectory, open_directory
from pyengine.tasks.inputs import Inputs
from pyengine.tasks.loading import load
from pyengine.text import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from pyengine.quantize.comparison import MatrixPair
    from pyengine.quantize.divergence import Divergence

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare a model with another that was made of the same checkpoint",
        description="Shows type, bytes and signal to noise of each matrix of B, with A as the signal, and how far B's "
        "next-token probabilities are from A's over a text.",
    )
    parser.add_argument("a", metavar="A", help="model directory to compare with, such as one in float32")
    parser.add_argument("b", metavar="B", help="model directory")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="text: a line a source sentence, its translation behind a tab; without one A's greedy translation",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N lines only")
    parser.add_argument(
        "--threads", type=threads, default="auto", metavar="N", help="(default: auto, every CPU that may be used)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page with tables and plots there (needs matplotlib)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older report")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    # Imported here: no other command needs what measures.
    from pyengine.quantize.comparison import compare_matrices, read_pairs, require_same_tokens
    from pyengine.quantize.divergence import mean_divergence, pair_divergences
    from pyengine.quantize.text import load_text, usable_text

    if options.limit is not None and options.limit < 1:
        raise OptionError(f"--limit is {options.limit}; expected a whole number, at least 1")
    if options.overwrite and options.report is None:
        raise OptionError("--overwrite is for --report, which is not given")
    if options.report is not None:
        from pyengine.quantize.report import check_report_target, require_matplotlib

        require_matplotlib()
        check_report_target(options.report, overwrite=options.overwrite)
    a, b = open_directory(options.a), open_directory(options.b)
    sizes = [(each.config.source_vocab, each.config.target_vocab) for each in (a, b)]
    if sizes[0] != sizes[1]:
        both = " and ".join(f"{source} source and {target} target tokens" for source, target in sizes)
        raise OptionError(f"{b.path}: expected the vocabulary of {a.path}, found {both}")
    text = load_text(options.data)[: options.limit]
    inputs = []
    for each in (a, b):
        tokenizer = _tokenizer(each)
        text, skipped = usable_text(text, each.config, each.generation, tokenizer)
        if str(skipped):
            note(f"pyengine: note: {skipped}")
        inputs.append(Inputs(each.config, each.generation.eos_token_id, tokenizer))
    with load(a.path, threads=options.threads) as reference, load(b.path, threads=options.threads) as other:
        pairs, filled = read_pairs(reference, inputs[0], text)
        require_same_tokens(inputs[0], inputs[1], filled)
        places = list(pair_divergences(reference, other, pairs))
        isa = str(reference.info()["isa"])
    matrices, found = list(compare_matrices(a, b)), mean_divergence(places)
    if options.report is not None:
        from pyengine.quantize.comparison_report import comparison_report
        from pyengine.quantize.report import write_report

        report = comparison_report(a, b, matrices, filled, pairs, places, command=options.command, isa=isa)
        write_report(options.report, report, overwrite=options.overwrite)
    if options.json:
        say_json(_json(a, b, matrices, found))
    else:
        _print(a, b, matrices, found)


def _tokenizer(directory: ModelDirectory) -> Tokenizer | None:
    config, kind = directory.config, directory.tokenizer_kind
    sizes = {"source_vocab": config.source_vocab, "target_vocab": config.target_vocab}
    return None if kind is None else open_tokenizer(directory.path, kind, **sizes)


def _json(a: ModelDirectory, b: ModelDirectory, matrices: Sequence[MatrixPair], found: Divergence) -> dict[str, object]:
    """JSON knows no infinity: "same" says where ``snr_db`` is null because nothing differs."""
    rows = []
    for each in matrices:
        known = each.snr_db is not None and math.isfinite(each.snr_db)
        rows.append({**asdict(each), "snr_db": each.snr_db if known else None, "same": each.snr_db == math.inf})
    return {
        "paths": [str(a.path), str(b.path)],
        "bytes": [a.bytes, b.bytes],
        "ratio": b.bytes / a.bytes,
        "kl_divergence": found.kl,
        "top1_agreement": found.top1,
        "tokens": found.tokens,
        "matrices": rows,
    }


def _print(a: ModelDirectory, b: ModelDirectory, matrices: Sequence[MatrixPair], found: Divergence) -> None:
    rows: list[tuple[str, ...]] = [("matrix", "A", "B", "A bytes", "B bytes", "SNR dB")]
    for each in matrices:
        kinds = (kind or "-" for kind in each.types)
        sizes = ("-" if size is None else f"{size:,}" for size in each.bytes)
        rows.append((each.name, *kinds, *sizes, _snr(each.snr_db)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        say("  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))]))
    for letter, directory in (("A", a), ("B", b)):
        say(f"{letter}: {directory.bytes:,} bytes, {directory.weights}, {directory.path}")
    say(f"size: B / A = {b.bytes / a.bytes:.3f}")
    say(f"KL divergence: {found.kl:.6f} nats a token")
    say(f"same first choice: {100 * found.top1:.2f} % of {found.tokens:,} tokens")


def _snr(value: float | None) -> str:
    if value is None:
        return "-"
    return "same" if value == math.inf else f"{value:.1f}"

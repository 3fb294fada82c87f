"""`pyengine compare`: what a model directory lost against another, matrix by matrix and over a text."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyengine.cli.ways import threads
from pyengine.console import note, say, say_json
from pyengine.errors import OptionError
from pyengine.modelfile import ModelDirectory, open_directory
from pyengine.text import tokenizer_of

if TYPE_CHECKING:
    from pyengine.quantize.measuring.comparison import MatrixPair
    from pyengine.quantize.measuring.divergence import LineDivergence, StateError
    from pyengine.quantize.seeing.text import Text

__all__ = ["add_command"]


class Figures(NamedTuple):
    """How far B is from A over the text: by name, and in words."""

    json: dict[str, object]
    distance: str
    likeness: str


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare a model with another that was made of the same checkpoint",
        description="Shows type, bytes and signal to noise of each matrix of B, with A as the signal, and how far B's "
        "next-token probabilities are from A's over a text; of encoders alone, how far what they give is.",
    )
    parser.add_argument("a", metavar="A", help="model directory to compare with, such as one in float32")
    parser.add_argument("b", metavar="B", help="model directory")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="text: a line a source sentence, its translation behind a tab, without one A's greedy translation; for "
        "a model with a decoder or an encoder alone a line a text",
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
    from pyengine.quantize.measuring.comparison import compare_matrices, read_whole, require_same_tokens
    from pyengine.quantize.measuring.divergence import line_divergences, mean_divergence, state_error
    from pyengine.quantize.measuring.reading import Reader
    from pyengine.quantize.seeing.text import load_text, usable_text

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
    if a.config.decoder is None and a.config.width != b.config.width:  # their states are compared
        raise OptionError(f"{b.path}: expected the width of {a.path}, {a.config.width}, found {b.config.width}")
    text: Text = load_text(options.data)[: options.limit]
    for each in (a, b):
        text, skipped = usable_text(text, each.config, each.generation, tokenizer_of(each))
        if str(skipped):
            note(f"pyengine: note: {skipped}")
    how = {"threads": options.threads}
    measured: StateError | list[LineDivergence]
    with Reader.open(a.path, **how) as reference, Reader.open(b.path, **how) as other:
        samples, filled = read_whole(reference, text)
        require_same_tokens(reference, other, filled)
        if a.config.decoder is None:
            measured = states = state_error(reference, other, samples)
            figures = Figures(
                {"state_error": states.error, "state_cosine": states.cosine, "tokens": states.tokens},
                f"states: {100 * states.error:.4f} % of their squares differ",
                f"mean cosine: {states.cosine:.6f} over {states.tokens:,} tokens",
            )
        else:
            measured = lines = list(line_divergences(reference, other, samples))
            mean = mean_divergence(lines)
            figures = Figures(
                {"kl_divergence": mean.kl, "top1_agreement": mean.top1, "tokens": mean.tokens},
                f"KL divergence: {mean.kl:.6f} nats a token",
                f"same first choice: {100 * mean.top1:.2f} % of {mean.tokens:,} tokens",
            )
    matrices = list(compare_matrices(a, b))
    if options.report is not None:
        from pyengine.quantize.report import write_report
        from pyengine.quantize.report.comparison import comparison_report

        where = {"command": options.command, "isa": reference.isa}
        report = comparison_report(a, b, matrices, filled, samples, measured, **where)
        write_report(options.report, report, overwrite=options.overwrite)
    if options.json:
        say_json(_json(a, b, matrices, figures))
    else:
        _print(a, b, matrices, figures)


def _json(
    a: ModelDirectory, b: ModelDirectory, matrices: Sequence[MatrixPair], figures: Figures
) -> dict[str, object]:
    """JSON knows no infinity: "same" says where ``snr_db`` is null because nothing differs."""
    rows = []
    for each in matrices:
        known = each.snr_db is not None and math.isfinite(each.snr_db)
        rows.append({**asdict(each), "snr_db": each.snr_db if known else None, "same": each.snr_db == math.inf})
    return {
        "paths": [str(a.path), str(b.path)],
        "bytes": [a.bytes, b.bytes],
        "ratio": b.bytes / a.bytes,
        **figures.json,
        "matrices": rows,
    }


def _print(a: ModelDirectory, b: ModelDirectory, matrices: Sequence[MatrixPair], figures: Figures) -> None:
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
    say(figures.distance, figures.likeness)


def _snr(value: float | None) -> str:
    if value is None:
        return "-"
    return "same" if value == math.inf else f"{value:.1f}"

"""`pyengine bench`: what a model reaches on this machine, int8 against float32, in turn."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pyengine.cli.ways import threads
from pyengine.console import note, say, say_json
from pyengine.cpus import usable_cpus
from pyengine.errors import InputError
from pyengine.formats.regular_files import usable_path
from pyengine.options import GenerationKeywords
from pyengine.tasks.loading import load
from pyengine.tasks.translator import Translator

__all__ = ["add_command"]

BEAMS, BATCHES = (1, 4), (1, 8, 32)
READ, WRITTEN = 31, 32
SECONDS, PAIRS = 2.0, 3
"""For a setting, and at least so many pairs."""

Sentences = list[str] | list[list[int]]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure a model on this machine, int8 against float32",
        description=f"Translates with int8 and with float32 in turn, and says how fast each is. Without --data, "
        f"sentences are {READ} random ids without padding, and {WRITTEN} tokens are written. Takes about a minute.",
    )
    parser.add_argument("-m", "--model", required=True, metavar="DIR", help="model directory")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="sentences, a line each, cut to fit, to translate to their end"
    )
    parser.add_argument(
        "--threads", type=threads, default="auto", metavar="N", help="besides one (default: auto, every CPU)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Figures:
    """Of one setting: medians over the pairs; float32 and ratio are None where there is nothing to compare."""

    threads: int
    beams: int
    batch: int
    tokens_a_second: float
    ms_a_call: float
    float32_tokens_a_second: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


def run(options: argparse.Namespace) -> None:
    from tqdm import tqdm  # no other command waits for it

    lines = None if options.data is None else _lines(options.data)
    most = usable_cpus() if options.threads == "auto" else options.threads
    counts = sorted({1, most})
    found: list[Figures] = []
    with tqdm(total=len(counts) * len(BEAMS) * len(BATCHES), leave=False, disable=not sys.stderr.isatty()) as bar:
        for count in counts:
            start = time.perf_counter()
            engines = [load(options.model, task=Translator, threads=count)]
            seconds = time.perf_counter() - start
            about = engines[0].info()
            if about["compute"] == "int8":
                engines.append(load(options.model, task=Translator, threads=count, compute="float32"))
            for beams, batch in itertools.product(BEAMS, BATCHES):
                found.append(_measure(engines, lines, count, beams, batch))
                bar.update()
            for engine in engines:
                engine.close()
    if options.json:
        shown = {key: about[key] for key in ("path", "compute", "isa", "load", "weight_bytes", "huge_page_bytes")}
        say_json({**shown, "load_seconds": seconds, "figures": [asdict(each) for each in found]})
    else:
        _print(about, seconds, found)
    slow = [each for each in found if each.ratio is not None and each.ratio < 1]
    for each in slow:
        where = f"{each.threads} threads, {each.beams} beams, {each.batch} sentences"
        note(f"pyengine: warning: int8 is not faster than float32 with {where}")


def _lines(path: Path) -> list[str]:
    path = usable_path(path, InputError)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found an invalid byte at {error.start}") from None
    if not lines:
        raise InputError(f"{path}: expected sentences, found none")
    return lines


def _measure(engines: list[Translator], lines: list[str] | None, count: int, beams: int, batch: int) -> Figures:
    """The engines in turn, on input that differs from pair to pair."""
    keywords: GenerationKeywords = {"num_beams": beams}
    if lines is None:
        # A model may have fewer positions.
        about: dict[str, Any] = engines[0].info()
        written = min(WRITTEN, about["model"]["decoder"]["max_positions"])
        keywords |= {"min_new_tokens": written, "max_new_tokens": written}
    times: list[list[float]] = [[] for _ in engines]
    rates: list[list[float]] = [[] for _ in engines]
    end = time.perf_counter() + SECONDS
    for pair in itertools.count():
        if pair > PAIRS and time.perf_counter() > end:
            break
        sentences = _sentences(engines[0], lines, batch, pair)
        for engine, taken, rate in zip(engines, times, rates, strict=True):
            start = time.perf_counter()
            results = engine.translate(sentences, truncate=True, **keywords)
            seconds = time.perf_counter() - start
            if pair:  # the first is not counted: memory, threads
                taken.append(seconds)
                rate.append(sum(len(result.ids) + 1 for result in results) / seconds)
    ratios = [other / own for own, other in zip(times[0], times[-1], strict=True)] if len(engines) > 1 else []
    return Figures(
        threads=count,
        beams=beams,
        batch=batch,
        tokens_a_second=median(rates[0]),
        ms_a_call=1e3 * median(times[0]),
        float32_tokens_a_second=median(rates[1]) if ratios else None,
        ratio=median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
    )


def _sentences(engine: Translator, lines: list[str] | None, batch: int, pair: int) -> Sentences:
    if lines is not None:
        return [lines[(pair * batch + i) % len(lines)] for i in range(batch)]
    about: dict[str, Any] = engine.info()
    length = min(READ, about["model"]["encoder"]["max_positions"])
    ids = [each for each in range(about["model"]["source_vocab"]) if each != about["generation"].get("pad_token_id")]
    drawn: list[list[int]] = np.random.default_rng(pair).choice(ids, (batch, length)).tolist()
    return drawn


def _number(values: Any, name: str) -> int:
    return int(values[name])


def _print(about: dict[str, object], seconds: float, found: list[Figures]) -> None:
    compute, size = about["compute"], _number(about, "weight_bytes") / 1e6
    say(f"{compute} on {about['isa']}, loaded in {seconds:.2f} s ({about['load']}), {size:.0f} MB of weights")
    compared = found[0].ratio is not None
    if not compared:
        kind = about["weights"]
        say(f"the directory holds {kind} weights: no int8 to compare with (pyengine quantize --weights int8)")
    heads = ["threads", "beams", "batch", f"{compute} tok/s", "ms a call"]
    rows = [heads + (["float32 tok/s", "int8/float32"] if compared else [])]
    for each in found:
        cells = [str(each.threads), str(each.beams), str(each.batch)]
        cells += [f"{each.tokens_a_second:,.0f}", f"{each.ms_a_call:,.1f}"]
        if compared:
            spread = f"{each.ratio:.2f} ({each.ratio_low:.2f}-{each.ratio_high:.2f})"
            cells += [f"{each.float32_tokens_a_second:,.0f}", spread]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    say(*("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows))

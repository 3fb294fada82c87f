"""Tokens a second of several models on the same text, in turn, so that all meet the same neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.seeing.text import Text
from pyengine.tasks.translator import Translator

__all__ = ["measure_speed"]

ROUNDS = 3
SINGLE = 40  # lines that are taken one at a time

Way = Callable[[Reader, Text], int]  # tokens written, or read


def measure_speed(
    models: Mapping[str, Reader], text: Text, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float]]:
    """Setting -> model -> tokens a second: the median of ROUNDS after one to warm up.

    Models with both stacks translate the sources, end tokens included, with searches of their own defaults; those with
    one read the text. ``progress`` is told the runs over all of ``text`` done, and their number.
    """
    config = next(iter(models.values())).config
    translates = config.encoder is not None and config.decoder is not None
    what, together = ("sentence", _translated) if translates else ("text", _read)

    def one_by_one(reader: Reader, lines: Text) -> int:
        return sum(together(reader, [line]) for line in lines)

    ways: dict[str, tuple[Way, Text]] = {
        f"one {what} at a time": (one_by_one, text[:SINGLE]),
        f"{len(text)} {what}s in one call": (together, text),
    }
    found: dict[str, dict[str, float]] = {}
    steps = len(ways) * (ROUNDS + 1) * len(models)
    for number, (setting, (way, lines)) in enumerate(ways.items()):
        rates: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(ROUNDS + 1):
            for place, (name, reader) in enumerate(models.items()):
                start = time.perf_counter()
                tokens = way(reader, lines)
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - start))
                if progress:
                    progress((number * (ROUNDS + 1) + turn) * len(models) + place + 1, steps)
        found[setting] = {name: median(values) for name, values in rates.items()}
    return found


def _translated(reader: Reader, text: Text) -> int:
    sources = [source for source, _ in text if source is not None]
    results = Translator(reader.engine, reader.tokenizer, {}).translate(sources)
    return sum(len(result.ids) + 1 for result in results)


def _read(reader: Reader, text: Text) -> int:
    return sum(map(len, reader.states(text) if reader.config.decoder is None else reader.log_probs(text)))

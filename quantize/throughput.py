"""Tokens a second of several models on the same sentences, in turn, so that all meet the same neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from pyengine.tasks.inputs import Sentence
from pyengine.tasks.translator import Translator

__all__ = ["measure_speed"]

ROUNDS = 3
SINGLE = 40  # sentences that are translated one at a time

Way = Callable[[Translator, Sequence[Sentence]], int]  # tokens written


def measure_speed(
    models: Mapping[str, Translator], sources: Sequence[Sentence], progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float]]:
    """Setting -> model -> tokens written a second, end tokens included: the median of ROUNDS after one to warm up.

    Searches are those of the models' own defaults. ``progress`` is told the translations of all ``sources`` done, and
    their number.
    """
    ways: dict[str, tuple[Way, Sequence[Sentence]]] = {
        "one sentence at a time": (_one_by_one, sources[:SINGLE]),
        f"{len(sources)} sentences in one call": (_together, sources),
    }
    found: dict[str, dict[str, float]] = {}
    steps = len(ways) * (ROUNDS + 1) * len(models)
    for number, (setting, (way, lines)) in enumerate(ways.items()):
        rates: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(ROUNDS + 1):
            for place, (name, translator) in enumerate(models.items()):
                start = time.perf_counter()
                tokens = way(translator, lines)
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - start))
                if progress:
                    progress((number * (ROUNDS + 1) + turn) * len(models) + place + 1, steps)
        found[setting] = {name: median(values) for name, values in rates.items()}
    return found


def _one_by_one(translator: Translator, sources: Sequence[Sentence]) -> int:
    return sum(len(translator.translate(source).ids) + 1 for source in sources)


def _together(translator: Translator, sources: Sequence[Sentence]) -> int:
    return sum(len(result.ids) + 1 for result in translator.translate(list(sources)))

"""What is known of CTranslate2's speed, to see whether it runs here as it should before a ratio to it is quoted.

Its best figures on one machine, scaled to this one: a call of one sentence by the read bandwidth, larger ones by the
int8 peak, each with as many threads as it ran on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from limits import CACHED, Limits
from report import Report, Table, Verdict

__all__ = ["BLEU", "Found", "compare"]

BANDWIDTH, PEAK = 35e9, 947e9
"""Of that machine, two cores of Zen 4: bytes and int8 operations a second."""
RATES = {
    ("base", 1, 1): 92, ("base", 4, 1): 86, ("base", 1, 32): 1365, ("base", 4, 32): 605, ("base", 1, 128): 1820,
    ("example", 1, 0): 15_400, ("example", 4, 0): 6_150,
}  # fmt: skip
"""Model, beams, sentences a call (0: the whole test set) -> tokens a second."""
BLEU = {1: 36.57, 4: 38.32}
"""Of the example on test_2016_flickr, by beams."""
LEAST = 0.9


@dataclass(frozen=True)
class Found:
    """What CTranslate2 did here."""

    model: str
    threads: int
    beams: int
    sentences: int
    rate: float


def compare(found: Iterable[Found], limits: dict[int, Limits], isa: str, report: Report) -> None:
    """A table, and the verdict on it. `limits`: of this machine, by threads."""
    columns = {"model": "", "threads": "d", "beams": "d", "sentences": "d", "known tok/s": ",d", "scaled by": "",
               "expected tok/s": ",.0f", "found tok/s": ",.0f", "found / expected": ".2f"}  # fmt: skip
    table = Table(
        f"CTranslate2 against what is known of it: 4.8.5, int8, at its best on two cores of Zen 4 with "
        f"{BANDWIDTH / 1e9:.0f} GB/s and {PEAK / 1e9:.0f} GOPS; 0 sentences: all in one call", columns,
    )  # fmt: skip
    fastest: dict[tuple[str, int, int], float] = {}
    expected: dict[tuple[str, int, int], float] = {}
    every = max(limits, default=0)
    for each in found:
        row = each.model, each.beams, each.sentences
        known, limit = RATES.get(row), limits[each.threads]
        if known is None or not limit.int8(isa):
            continue
        if each.sentences == 1:
            scale, shown = limit.read(CACHED) / BANDWIDTH, f"{limit.read(CACHED) / 1e9:.1f} GB/s"
        else:
            scale, shown = limit.int8(isa) / PEAK, f"{limit.int8(isa) / 1e9:,.0f} GOPS"
        cells = [known, shown, known * scale, each.rate, each.rate / (known * scale)]
        table.rows.append([each.model, each.threads, each.beams, each.sentences, *cells])
        fastest[row] = max(fastest.get(row, 0.0), each.rate)
        if each.threads == every:
            expected[row] = known * scale
    if not table.rows:
        return
    report.tables.append(table)
    below = []
    for row, rate in expected.items():
        if (ratio := fastest[row] / rate) < LEAST:
            name, beams, sentences = row
            below.append(f"{ratio:.2f} ({name}, beams {beams}, {sentences or 'all'} sentences)")
    demand = f"CTranslate2 at its best: {LEAST} of what is known of it, scaled to {every} threads, or explained"
    report.verdicts.append(Verdict(demand, "; ".join(below) or "everywhere", not below))

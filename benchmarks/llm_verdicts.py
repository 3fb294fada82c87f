"""What peers_llm.py asks: ratios to llama.cpp and shares of the machine's limits, row by row; loading and memory."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, Protocol

from engines import PYENGINE
from language import TOKENIZER
from language_models import RANDOM, SMOLLM2
from report import Report, Table, Verdict

__all__ = ["AT_ONCE", "DECODE", "DEEP", "LONG", "SHORT", "Row", "judge_fresh", "judge_rows"]

DECODE, DEEP, AT_ONCE = "decode", "decode at depth 4,096", "16 sequences at once"
SHORT, LONG = "prefill 512", "prefill 4,096"
Row = tuple[str, str]
"""Types, such as "int8 / Q8_0", and what was measured."""

INT8, INT4 = "int8 / Q8_0", "int4 / Q4_0"
RATIOS = {
    (SMOLLM2, DECODE): {INT8: 1.7, INT4: 1.5},
    (RANDOM, DECODE): {INT8: 1.15, INT4: 1.1},
    (SMOLLM2, SHORT): {INT8: 3.2, INT4: 2.3},
    (RANDOM, SHORT): {INT8: 2.5, INT4: 2.3},
    (SMOLLM2, LONG): {INT8: 4.0, INT4: 3.5},
    (RANDOM, LONG): {INT8: 3.0, INT4: 2.5},
    (SMOLLM2, DEEP): {INT8: 2.0, INT4: 1.7},
    (SMOLLM2, AT_ONCE): {INT8: 2.5, INT4: 2.5},
    (RANDOM, AT_ONCE): {INT8: 2.5, INT4: 2.5},
}
"""Times as fast as llama.cpp, at least."""
SHARES = {
    (SMOLLM2, DECODE): {INT8: 55, INT4: 55},
    (RANDOM, DECODE): {INT8: 80, INT4: 80},
    (SMOLLM2, SHORT): {INT8: 40, INT4: 33},
    (RANDOM, SHORT): {INT8: 55, INT4: 55},
}
"""Per cent of the bandwidth in decoding, of the int8 peak in prefill, at least."""
EITHER = {(RANDOM, DECODE)}
"""Where the share alone is enough, or the ratio."""
KNOWN = {
    (INT8, DECODE): 78, (INT8, DEEP): 32, (INT8, SHORT): 531, (INT8, LONG): 254,
    (INT4, DECODE): 139, (INT4, DEEP): 39, (INT4, SHORT): 653, (INT4, LONG): 290,
}  # fmt: skip
"""Tokens a second of llama.cpp on SmolLM2 with two threads, on the slower of two machines."""
LEAST_KNOWN = 0.8
LOADING, BESIDE = 0.3, 96e6
"""Seconds, and bytes beside file, cache and tokenizer."""


class Found(Protocol):
    @property
    def peer_rate(self) -> float | None: ...

    @property
    def ratios(self) -> list[float]: ...


def judge_rows(model: str, table: Table, found: Mapping[Row, Found], report: Report) -> None:
    shares = {(row[0], row[1]): row[5] if row[5] is not None else row[6] for row in table.rows}
    for (types, row), each in found.items():
        ratio, share = (asked.get((model, row), {}).get(types) for asked in (RATIOS, SHARES))
        reached = shares[types, row]
        unit = "bandwidth" if row == DECODE else "int8 peak"
        tests = []
        if ratio is not None and each.ratios:
            value = median(each.ratios)
            tests.append((f"{ratio:g} times llama.cpp", f"{value:.2f}", value >= ratio))
        if share is not None and reached is not None:
            tests.append((f"{share} % of the {unit}", f"{reached:.0f} %", reached >= share))
        if (model, row) in EITHER and tests:
            asked, shown, met = zip(*tests, strict=True)
            tests = [(", or ".join(asked), ", ".join(shown), any(met))]
        report.verdicts.extend(Verdict(f"{model}, {types}, {row}: {asked}", *rest) for asked, *rest in tests)
    if model == SMOLLM2:
        below = []
        for (types, row), rate in KNOWN.items():
            peer = found[types, row].peer_rate if (types, row) in found else None
            if peer is not None and peer < LEAST_KNOWN * rate:
                below.append(f"{peer / rate:.2f} ({types.partition(' / ')[2]}, {row})")
        if any(each.peer_rate for each in found.values()):
            demand = f"{model}: llama.cpp reaches {LEAST_KNOWN} of what is known of it"
            report.verdicts.append(Verdict(demand, "; ".join(below) or "everywhere", not below))


def judge_fresh(
    model: str, loaded: Mapping[str, Mapping[str, Mapping[str, Any]]], sizes: Mapping[str, int], report: Report
) -> None:
    """`sizes`: bytes of the model directories by their weights."""
    for types, engines in loaded.items():
        weights, own = types.partition(" ")[0], engines[PYENGINE]
        if types != next(each for each in loaded if each.startswith(weights)):
            continue
        if model == SMOLLM2:
            demand = f"{model}, {weights}: loaded within {LOADING} s, the page cache being warm"
            report.verdicts.append(Verdict(demand, f"{own['load']:.2f} s", own["load"] <= LOADING))
        beside = own["peak"] - engines[TOKENIZER]["peak"] - own["cache"] - sizes[weights]
        demand = f"{model}, {weights}: peak memory at most file, cache and {BESIDE / 1e6:.0f} MB beside the tokenizer"
        report.verdicts.append(Verdict(demand, f"{beside / 1e6:.0f} MB beside", beside <= BESIDE))

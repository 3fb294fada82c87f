"""What peers_mt.py found, call by call, and what is asked of it."""

from __future__ import annotations

from statistics import median

from engines import CTRANSLATE2, PYENGINE, Setup
from report import Report, Table, Verdict

__all__ = ["Pairs", "Row", "judge_avx2", "judge_base", "judge_example", "judge_fresh"]

Row = tuple[int, int, int]
"""Threads, beams, sentences a call; 0: the whole set."""


class Pairs:
    """Times and tokens of both sides, a call at a time."""

    def __init__(self, own: Setup, setup: Setup | None, limit: int | None) -> None:
        self.own, self.setup, self.limit = own, setup, limit
        self.ours: list[float] = []
        self.peer: list[float] = []
        self.our_tokens: list[int] = []
        self.peer_tokens: list[int] = []
        self.our_texts: list[str] = []
        self.peer_texts: list[str] = []

    @property
    def rate(self) -> float:
        """Tokens a second of the median call."""
        return median(count / taken for count, taken in zip(self.our_tokens, self.ours, strict=True))

    @property
    def peer_rate(self) -> float | None:
        rates = [count / taken for count, taken in zip(self.peer_tokens, self.peer, strict=True)]
        return median(rates) if rates else None

    @property
    def ratios(self) -> list[float]:
        """How many times as fast, pair by pair, by the time for the same sentences."""
        return [other / own for own, other in zip(self.ours, self.peer, strict=False)]

    @property
    def own_setting(self) -> str:
        return f"{self.own.workers}x{self.own.threads}"

    @property
    def peer_setting(self) -> str:
        if self.setup is None:
            return "not installed"
        backend = "MKL" if self.setup.environment["CT2_USE_MKL"] == "1" else "oneDNN"
        isa = self.setup.environment.get("CT2_FORCE_CPU_ISA", "")
        shape = f"{self.setup.workers}x{self.setup.threads}"
        batch = f"batch {self.limit}" if self.limit else ""
        return " ".join(part for part in (backend, isa, shape, batch) if part)


def judge_base(found: dict[Row, Pairs], table: Table, report: Report) -> None:
    threads = max(row[0] for row in found)
    shares = {tuple(row[:3]): row[7:9] for row in table.rows}

    def ratio(row: Row, least: float, name: str) -> None:
        if row in found and found[row].ratios:
            value = median(found[row].ratios)
            report.verdicts.append(Verdict(f"(b) {name}: {least:g} times CTranslate2", f"{value:.2f}", value >= least))

    def share(row: Row, which: int, least: float, name: str) -> None:
        if row in found and shares[row][which] is not None:
            value = shares[row][which]
            report.verdicts.append(Verdict(f"(b) {name}", f"{value:.0f} %", value >= least))

    ratio((threads, 1, 1), 5, "greedy, one sentence")
    share((threads, 1, 1), 0, 70, "greedy, one sentence: 70 % of read bandwidth")
    ratio((threads, 4, 1), 4, "beam 4, one sentence")
    if (threads, 1, 1) in found and (threads, 4, 1) in found:
        cost = found[threads, 1, 1].rate / found[threads, 4, 1].rate
        report.verdicts.append(Verdict("(b) a step with beam 4: at most 1.3 greedy steps", f"{cost:.2f}", cost <= 1.3))
    ratio((threads, 1, 32), 2, "greedy, one call of 32")
    share((threads, 1, 32), 1, 42, "greedy, one call of 32: 42 % of the int8 peak")
    ratio((threads, 1, 128), 1.6, "greedy, 128 sentences")
    ratio((threads, 4, 32), 1.6, "beam 4, one call of 32")
    share((threads, 4, 32), 1, 45, "beam 4, one call of 32: 45 % of the int8 peak")
    single = [median(pairs.ratios) for row, pairs in found.items() if row[0] == 1 and pairs.ratios]
    if single:
        demand, shown = "(b) one thread: 1.5 times CTranslate2 everywhere", f"at least {min(single):.2f}"
        report.verdicts.append(Verdict(demand, shown, min(single) >= 1.5))


def judge_example(found: dict[Row, Pairs], bleu: dict[int, list[float]], report: Report) -> None:
    threads = max(row[0] for row in found)
    for (used, beams, count), pairs in found.items():
        if not pairs.ratios:
            continue
        value = median(pairs.ratios)
        least = 1.5 if used < threads else 1.8 if count == 0 else 3
        name = f"(a) {used} threads, beams {beams}, {'whole set' if count == 0 else 'one at a time'}"
        report.verdicts.append(Verdict(f"{name}: {least:g} times CTranslate2", f"{value:.2f}", value >= least))
    for beams, scores in bleu.items():
        if len(scores) == 2:
            shown = f"{scores[0]:.2f}, {scores[1]:.2f}"
            same = scores[0] >= scores[1] - 0.3
            report.verdicts.append(Verdict(f"(a) beams {beams}: BLEU not 0.3 below CTranslate2's", shown, same))


def judge_fresh(medians: dict[str, dict[str, float]], report: Report) -> None:
    if len(medians) < 2:
        return
    for key, most in (("load", 0.7), ("peak", 0.5)):
        value = medians[PYENGINE][key] / medians[CTRANSLATE2][key]
        what = {"load": "loading time", "peak": "peak memory"}[key]
        demand = f"(b) {what}: at most {most} of CTranslate2's"
        report.verdicts.append(Verdict(demand, f"{value:.2f}", value <= most))


def judge_avx2(found: dict[Row, Pairs], report: Report) -> None:
    values = [median(pairs.ratios) for pairs in found.values() if pairs.ratios]
    if values:
        shown = f"at least {min(values):.2f}"
        report.verdicts.append(Verdict("AVX2: not slower than CTranslate2 at any setting", shown, min(values) >= 1))

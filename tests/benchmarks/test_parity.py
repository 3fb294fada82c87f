"""What parity.py says of two engines that agree, that are at a tie, and that differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
VOCAB = 50


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Counting:
    """Goes on with the number that follows; behind the number ``at`` it finds another one better by ``gap``."""

    def __init__(self, at: int = -1, gap: float = 0.0, log_prob: float = -2.0) -> None:
        self.at, self.gap, self.log_prob = at, gap, log_prob

    def logits(self, ids: np.ndarray) -> np.ndarray:
        found = np.full(VOCAB, -5.0, np.float32)
        found[(ids[-1] + 1) % VOCAB] = 4.0
        if ids[-1] == self.at:
            found[0] = 4.0 + self.gap
        return found

    def greedy(self, prompts: list[np.ndarray], tokens: int) -> list[list[int]]:
        found = []
        for prompt in prompts:
            ids = prompt.tolist()
            for _ in range(tokens):
                ids.append(int(self.logits(np.array(ids)).argmax()))
            found.append(ids[len(prompt) :])
        return found

    def log_probs(self, window: np.ndarray) -> np.ndarray:
        return np.full(len(window) - 1, self.log_prob)


def compared(own: Counting, other: Counting, count: int = 64) -> Any:
    import parity
    from report import Report

    report = Report("parity")
    parity.compare_greedy("model", own, other, [np.array([9, i % 8], np.int32) for i in range(count)], 8, report)
    return report


def met(report: Any) -> list[bool]:
    return [verdict.met for verdict in report.verdicts]


def test_the_same_ids() -> None:
    report = compared(Counting(), Counting())
    assert met(report) == [True, True] and len(report.tables) == 1
    assert report.tables[0].rows == [[64, "1 to 1", 8, 64]]
    assert report.verdicts[0].demand == "model: the same ids for 63 of 64 prompts"


def test_what_only_one_of_them_is_undecided_about_is_no_tie() -> None:
    report = compared(Counting(), Counting(at=14, gap=3e-4), 8)  # one prompt comes to 14, with its last token but one
    assert met(report) == [False, False]  # of 8 none may differ
    [row] = report.tables[1].rows
    assert row[:5] == [8, 1, 8, 15, 0] and row[-1] == "not explained"
    assert row[5:7] == pytest.approx([9.0, -3e-4], abs=1e-6)


def test_one_of_64_may_differ_but_by_a_tie() -> None:
    import parity
    from report import Report

    prompts = [np.array([9, 7 if i == 5 else 0], np.int32) for i in range(64)]
    for gap, verdicts in ((3e-4, [True, True]), (5e-4, [True, False])):
        report = Report("parity")
        parity.compare_greedy("model", Counting(at=10, gap=-gap), Counting(at=10, gap=gap), prompts, 8, report)
        assert met(report) == verdicts
        [row] = report.tables[1].rows
        assert row[:5] == [6, 1, 4, 11, 0]
        assert row[5:7] == pytest.approx([gap, -gap], abs=1e-6)


@pytest.mark.parametrize(("other", "fine"), ((-2.00009, True), (-1.99991, True), (-2.00011, False), (-1.9998, False)))
def test_perplexity_within_a_hundredth_of_a_percent(other: float, fine: bool) -> None:
    import parity
    from report import Report

    report = Report("parity")
    windows = [np.arange(9), np.arange(5)]
    parity.compare_perplexity("model", Counting(), Counting(log_prob=other), windows, report)
    [row] = report.tables[0].rows
    assert row == pytest.approx([12, math.exp(2), math.exp(-other), math.exp(2 + other) - 1, abs(2 + other)], abs=1e-9)
    assert met(report) == [fine]


def test_prompts_are_beginnings_of_paragraphs_of_many_lengths() -> None:
    import parity

    class Words:
        def encode(self, text: str, *, special: bool, split_special: bool) -> list[int]:
            assert split_special and not special
            return [int(word) for word in text.split()]

    lines = [" ".join(str(10_000_000 + 1000 * line + word) for word in range(70)) for line in range(200)]
    text = "\n".join(f" = heading =\n{line}" for line in lines)
    prompts = parity.prompts_of(text, Words(), 1, 64, 64)
    assert [len(prompt) - 1 for prompt in prompts[:17]] == [*range(4, 65, 4), 4]
    firsts = [int(prompt[1]) for prompt in prompts]
    assert all(prompt[0] == 1 for prompt in prompts) and firsts == sorted(set(firsts))
    assert all(prompt.tolist() == [1, *range(first, first + len(prompt) - 1)] for first, prompt in zip(firsts, prompts))
    assert firsts[-1] > 10_000_000 + 1000 * 190

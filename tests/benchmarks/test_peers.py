"""What peers_mt.py decides without a peer: the ways it keeps, and what it says of the peer's record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_best_way_of_each_job_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import peers_mt
    from engines import CTRANSLATE2, Done, Job, Setup

    class Timed:
        """A worker that takes so long for a job, and notes its calls."""

        running: set[str] = set()
        calls: list[tuple[str, int]] = []

        def __init__(self, setup: Setup) -> None:
            self.setup, self.name = setup, setup.path.name
            self.running.add(self.name)

        def run(self, job: Job) -> Done:
            self.calls.append((self.name, job.beams))
            return Done(SECONDS[self.name][job.beams], 1, [])

        def stop(self) -> None:
            self.running.remove(self.name)

    SECONDS = {"even": {1: 2, 4: 2}, "few": {1: 1, 4: 5}, "many": {1: 5, 4: 1}, "slow": {1: 40, 4: 40}}
    monkeypatch.setattr(peers_mt, "Worker", Timed)
    bench = peers_mt.Bench(Path(), Path(), None, "avx2", peers_mt.QUICK)
    ways = [Setup(CTRANSLATE2, Path(name), 1) for name in SECONDS]
    monkeypatch.setattr(bench, "ours", lambda threads: [])
    monkeypatch.setattr(bench, "peers", lambda threads: ways)
    found: Any = bench.workers(1, [Job([], 1), Job([], 4)])[1]
    assert {worker.name for worker in found} == Timed.running == {"few", "many"}
    assert Timed.calls.count(("slow", 1)) == 1 and Timed.calls.count(("few", 1)) == 2
    assert peers_mt._best(found, lambda i: Job([], 4), [None])[0].name == "many"


def test_the_record_is_scaled_by_each_run_s_limits() -> None:
    import known
    from limits import CACHED, Limits
    from report import Report

    def limits(bandwidth: float, peak: float) -> Limits:
        read = {f"read {CACHED} {pages} pages all": bandwidth for pages in ("small", "huge")}
        return Limits({**read, "int8 avx512vnni all": peak})

    report = Report("peers-mt")
    of = {1: limits(35e9, 947e9 / 2), 2: limits(70e9, 947e9)}
    rates = [(1, 1, 1, 92.0), (2, 1, 1, 100.0), (2, 1, 32, 1365.0), (2, 1, 8, 1.0)]  # no record of 8 sentences
    known.compare([known.Found("base", *row) for row in rates], of, "avx512vnni", report)
    (table,), (verdict,) = report.tables, report.verdicts
    assert [row[-1] for row in table.rows] == pytest.approx([1, 100 / 184, 1])
    assert not verdict.met and verdict.found == "0.54 (base, beams 1, 1 sentences)"


def test_without_a_peer_nothing_is_said() -> None:
    import known
    from report import Report

    report = Report("peers-mt")
    known.compare([], {}, "avx512vnni", report)
    assert not report.tables and not report.verdicts

"""Translation with a busy process beside it, as a share of what it reaches on an idle machine.

    python benchmarks/neighbour.py

The base-size model in int8, all threads, greedy, sources of 31 random ids, exactly 32 tokens written. The neighbour
is a Python loop. Idle and busy calls take turns, and a ratio is the median over neighbouring pairs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

import models
import numpy as np
from report import Report, Table, Verdict, parser, publish, spread
from tqdm import tqdm

import pyengine
from pyengine.cpus import usable_cpus

READ, WRITTEN = 31, 32
LEAST = 0.4


@dataclass(frozen=True)
class Extent:
    """What is measured: sentences a call, pairs of calls, seconds of calls on each side of a pair."""

    batches: tuple[int, ...] = (1, 32)
    pairs: int = 7
    seconds: float = 1.0


QUICK = Extent(batches=(1,), pairs=1, seconds=0.0)


@contextmanager
def busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)  # until it runs
        yield
    finally:
        process.kill()
        process.wait()


def rate(translator: pyengine.Translator, batch: list[list[int]], seconds: float) -> float:
    """Tokens a second."""
    start, written = time.perf_counter(), 0
    while not written or time.perf_counter() - start < seconds:
        translator.translate(batch, num_beams=1, min_new_tokens=WRITTEN, max_new_tokens=WRITTEN)
        written += WRITTEN * len(batch)
    return written / (time.perf_counter() - start)


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--quick", action="store_true", help="one pair: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    threads = usable_cpus()
    source = models.checkpoint(models.BASE_NAME, options.work)
    directory = models.directories(models.BASE_NAME, source, options.work)["int8"]
    columns = {"sentences": "d", "idle, tok/s": ",.0f", "busy, tok/s": ",.0f", "ratio": ""}
    table = Table(f"Base size, greedy, {threads} threads, one busy process beside it", columns)
    report = Report("neighbour", {**asdict(extent), "threads": threads}, [table])
    rng = np.random.default_rng(1)
    with pyengine.load(directory, threads=threads) as translator:
        vocabulary = translator.info()["model"]["source_vocab"]
        for count in extent.batches:
            batch = [[*row, 0] for row in rng.integers(1, vocabulary - 1, (count, READ - 1)).tolist()]
            rate(translator, batch, 0.0)
            idle, busy = [], []
            for _ in tqdm(range(extent.pairs), desc=f"{count} sentences", leave=False):
                idle.append(rate(translator, batch, extent.seconds))
                with busy_process():
                    busy.append(rate(translator, batch, extent.seconds))
            ratios = [other / own for own, other in zip(idle, busy, strict=True)]
            table.rows.append([count, median(idle), median(busy), spread(ratios)])
            demand = f"{count} sentences a call: at least {LEAST:.0%} of the idle figure"
            report.verdicts.append(Verdict(demand, f"{median(ratios):.0%}", median(ratios) >= LEAST))
    publish(report, options)


if __name__ == "__main__":
    main()

"""Two threads against one where other programs want the processors, too: what a call takes beside them.

    python benchmarks/neighbour.py

Where other programs want the processors, two threads could be slower than one: a barrier waits for the slower of them.
The engine looks at what its barriers cost and goes on with fewer threads where they cost more than they save
(docs/adr/0010-a-crew-of-our-own.md).

One sentence a call, greedy, int8: those of the example, and of base size sources of 31 random ids with exactly 4 tokens
written. Calls of one thread and of two take turns under the same load: nothing, busy loops, a process that translates
with two threads. A ratio is of two threads to one in one round, of the median and of the 99th percentile of its calls:
the median of the rounds, the smallest and the largest.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import models
import numpy as np
from report import Report, Table, Verdict, parser, publish, spread
from tqdm import tqdm

import pyengine

READ, WRITTEN = 31, 4
SENTENCES = ("Ein Mann fährt Fahrrad.", "Zwei Hunde spielen im Schnee.")
MOST = {50: 1.5, 99: 2.0}  # percentile -> largest ratio
BUSY = "while True: pass"
ENGINE = """
import sys, pyengine
translator = pyengine.load(sys.argv[1], threads=2)
while True:
    translator.translate([[*range(10, 40), 0]], num_beams=1)
"""


@dataclass(frozen=True)
class Extent:
    """What is measured: calls a round of one and of two threads each, rounds, seconds before a load is there."""

    calls: int = 500
    rounds: int = 3
    settle: float = 1.0


QUICK = Extent(calls=3, rounds=1, settle=0.0)


def loads(directory: Path) -> dict[str, list[list[str]]]:
    """Name -> the Python programs that run meanwhile."""
    busy = ["-c", BUSY]
    return {
        "nothing": [],
        "one busy loop": [busy],
        "two busy loops": [busy] * 2,
        "three busy loops": [busy] * 3,
        "the engine, two threads": [["-c", ENGINE, str(directory)]],
    }


@contextmanager
def running(programs: list[list[str]], settle: float) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, *program]) for program in programs]
    try:
        time.sleep(settle)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(calls: list[Callable[[], object]], count: int) -> dict[int, list[float]]:
    """Percentile -> seconds of each of `calls`, of `count` times in turn."""
    seconds = np.empty((len(calls), count))
    for i in range(count):
        for own, call in zip(seconds, calls, strict=True):
            start = time.perf_counter()
            call()
            own[i] = time.perf_counter() - start
    return {percentile: np.percentile(seconds, percentile, axis=1).tolist() for percentile in MOST}


def calls_of(name: str, translator: pyengine.Translator) -> Callable[[], object]:
    if name == models.EXAMPLE_NAME:
        return lambda: [translator.translate(text, num_beams=1) for text in SENTENCES]
    source = [*np.random.default_rng(1).integers(1, 58000, READ - 1).tolist(), 0]
    return lambda: translator.translate(source, num_beams=1, min_new_tokens=WRITTEN, max_new_tokens=WRITTEN)


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--quick", action="store_true", help="a few calls: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    columns = {"beside": "", "one thread, ms": ".2f", "two threads, ms": ".2f", "median": "", "99th percentile": ""}
    report = Report("neighbour", asdict(extent))
    for name in (models.EXAMPLE_NAME, models.BASE_NAME):
        directory = models.directories(name, models.checkpoint(name, options.work), options.work)["int8"]
        table = Table(f"{name}: a call of two threads to one of one thread", columns)
        report.tables.append(table)
        with ExitStack() as open_models:
            both = [open_models.enter_context(pyengine.load(directory, threads=threads)) for threads in (1, 2)]
            calls = [calls_of(name, translator) for translator in both]
            measure(calls, 1 + extent.calls // 10)
            worst = dict.fromkeys(MOST, 0.0)
            for load, programs in tqdm(loads(directory).items(), desc=name, leave=False):
                with running(programs, extent.settle):
                    rounds = [measure(calls, extent.calls) for _ in range(extent.rounds)]
                ratios = {p: [two / one for one, two in (each[p] for each in rounds)] for p in MOST}
                times = np.median([each[50] for each in rounds], axis=0) * 1e3
                table.rows.append([load, *times.tolist(), spread(ratios[50]), spread(ratios[99])])
                if programs:
                    worst = {p: max(worst[p], *ratios[p]) for p in MOST}
        for percentile, most in MOST.items():
            what = "the median" if percentile == 50 else "the 99th percentile"
            demand = f"{name}, beside any load: {what} of two threads within {most} times one thread's"
            found = f"at most {worst[percentile]:.2f}"
            report.verdicts.append(Verdict(demand, found, worst[percentile] <= most))
    publish(report, options)


if __name__ == "__main__":
    main()

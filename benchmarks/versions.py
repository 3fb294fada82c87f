"""This build of pyengine against another one, int8, in one run: what a change costs or gains at every setting.

    python benchmarks/versions.py --against OTHER_ENVIRONMENT/bin/python

Two processes take turns, one round each, on the jobs of benchmarks/speed.py; a ratio is of two neighbours in time (the
other build's seconds over this one's), and its median over the rounds counts. Each build converts checkpoints, since
formats of model directories may differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import models
from report import Report, Table, Verdict, parser, publish, spread
from speed import BASE_TARGET, jobs
from tqdm import tqdm

LEAST = 0.98
WORKER = """
import json, sys, time
import pyengine
from pyengine.quantize import convert
checkpoint, directory, threads = sys.argv[1:]
try:
    convert(checkpoint, directory, weights="int8")
except pyengine.OptionError:
    pass  # it is there already
translator = pyengine.load(directory, threads=int(threads))
print("ready", flush=True)
for line in sys.stdin:
    batches, beams, length = json.loads(line)
    lengths = {} if length is None else {"min_new_tokens": length, "max_new_tokens": length}
    time.sleep(0.02)  # the other build's threads have gone to sleep
    start = time.perf_counter()
    for batch in batches:
        translator.translate(batch, num_beams=beams, **lengths)
    print(time.perf_counter() - start, flush=True)
"""


@dataclass(frozen=True)
class Extent:
    """What is measured; `rounds`: at least and at most, `seconds`: of both builds a setting."""

    models: tuple[str, ...] = (models.EXAMPLE_NAME, models.BASE_NAME)
    threads: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (1, 8, 32, 64)
    rounds: tuple[int, int] = (7, 31)
    seconds: float = 6.0


QUICK = Extent((models.EXAMPLE_NAME,), threads=(1,), batches=(4,), rounds=(1, 1))


class Build:
    """A process with a build of pyengine that runs jobs."""

    def __init__(self, python: str, checkpoint: Path, directory: Path, threads: int) -> None:
        command = [python, "-c", WORKER, str(checkpoint), str(directory), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tempfile.gettempdir()
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a build ended with status {self._process.wait()}")
        return line

    def seconds(self, work: list[Any]) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(work) + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def take_turns(builds: list[Build], work: list[Any], extent: Extent) -> list[list[float]]:
    """Seconds of each build's rounds; who begins changes from round to round."""
    times: list[list[float]] = [[] for _ in builds]
    for build in builds:
        build.seconds(work)
    while len(times[0]) < extent.rounds[1]:
        if len(times[0]) >= extent.rounds[0] and sum(map(sum, times)) > extent.seconds:
            break
        order = list(range(len(builds)))
        for i in order if len(times[0]) % 2 else order[::-1]:
            times[i].append(builds[i].seconds(work))
    return times


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--against", default=sys.executable, metavar="PYTHON", help="of the other build's environment")
    made.add_argument("--quick", action="store_true", help="one setting: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    columns = {"threads": "d", "beams": "d", "batch": "d", "this build, ms": ".2f", "the other, ms": ".2f",
               "times as fast": "", "rounds": "d"}  # fmt: skip
    report = Report("versions", asdict(extent))
    for name in extent.models:
        checkpoint = models.checkpoint(name, options.work)
        directories = [options.work / f"versions-{name}-{which}" for which in ("this", "other")]
        table = Table(f"{name}, int8: this build against the other", columns)
        report.tables.append(table)
        found = []
        source = models.directories(name, checkpoint, options.work)["int8"]
        work = jobs(name, source, extent.batches)
        with tqdm(total=len(extent.threads) * len(work), desc=name, leave=False) as bar:
            for threads in extent.threads:
                pythons = (sys.executable, options.against)
                builds = [Build(*each, threads) for each in zip(pythons, [checkpoint] * 2, directories, strict=True)]
                for (beams, batch), job in work.items():
                    length = BASE_TARGET if job.length else None
                    own, other = take_turns(builds, [job.batches, beams, length], extent)
                    ratios = [b / a for a, b in zip(own, other, strict=True)]
                    found.append(median(ratios))
                    times = [1e3 * median(own), 1e3 * median(other)]
                    table.rows.append([threads, beams, batch, *times, spread(ratios), len(ratios)])
                    bar.update()
                for build in builds:
                    build.stop()
        slowest = f"at least {min(found):.3f} times as fast"
        report.verdicts.append(Verdict(f"{name}: {LEAST} at every setting", slowest, min(found) >= LEAST))
    publish(report, options)


if __name__ == "__main__":
    main()

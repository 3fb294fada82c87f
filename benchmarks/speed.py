"""Sentences and tokens a second: int8, float32 and transformers with torch (float32), side by side.

    python benchmarks/speed.py

A call translates one batch, token ids in and out, Python included. The engines take turns (A B C A B C ...), each in a
process of its own, so that a ratio compares neighbours in time; a ratio is the median over the rounds, with the
smallest and the largest. The first call of a setting is not counted. The example checkpoint translates sentences of
test_2016_flickr, of like lengths in a batch, to their end. The random base-size model reads 31 tokens and writes
exactly 32. Transformers runs `generate` in float32 on the same ids, with its default attention; without it the peer's
columns stay empty.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import models
import numpy as np
from engines import PYENGINE, TRANSFORMERS, Job, Setup, Worker, have_transformers
from report import Report, Table, Verdict, parser, publish, spread
from tqdm import tqdm

from pyengine.modelfile import open_directory
from pyengine.text import tokenizer_of

BEAMS = (1, 4)
BASE_SOURCE, BASE_TARGET = 31, 32
PEER = TRANSFORMERS
COLUMNS = {
    "threads": "d", "beams": "d", "batch": "d",
    "int8 s/s": ".1f", "float32 s/s": ".1f", "peer s/s": ".1f",
    "int8 tok/s": ".0f", "float32 tok/s": ".0f", "peer tok/s": ".0f",
    "int8/float32": "", "float32/peer": "", "rounds": "",
}  # fmt: skip

Sources = list[list[int]]


@dataclass(frozen=True)
class Extent:
    """What is measured. `rounds`: at least and at most; `seconds` a setting, for pyengine and the peer."""

    models: tuple[str, ...] = (models.EXAMPLE_NAME, models.BASE_NAME)
    threads: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (1, 8, 32, 64)
    rounds: tuple[int, int] = (3, 15)
    seconds: float = 6.0
    peer: bool = True


QUICK = Extent((models.EXAMPLE_NAME,), threads=(1,), batches=(1, 4), rounds=(1, 1), peer=False)


def example_sources(directory: Path, count: int) -> Sources:
    """Token ids of the first sentences of test_2016_flickr, by length."""
    texts, _ = models.read_pairs(models.EXAMPLE / "test_2016_flickr", count)
    tokenizer = tokenizer_of(open_directory(directory))
    assert tokenizer is not None
    return sorted((list(tokenizer.encode_source(text)) for text in texts), key=len)


def base_sources(directory: Path, count: int) -> Sources:
    """Random ids, the end token last."""
    vocabulary = open_directory(directory).config.source_vocab
    ids = np.random.default_rng(1).integers(1, vocabulary - 1, (count, BASE_SOURCE - 1))
    return [[*row, 0] for row in ids.tolist()]


def jobs(model: str, directory: Path, batches: tuple[int, ...]) -> dict[tuple[int, int], Job]:
    """(beams, batch) -> a round of it.

    A round has as many sentences as the largest batch; of the slow base-size model one batch, or 4 sentences.
    """
    base = model == models.BASE_NAME
    sources = (base_sources if base else example_sources)(directory, max(batches))
    made = {}
    for beams in BEAMS:
        for size in batches:
            chosen = sources[: max(size, 4)] if base else sources
            parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
            made[beams, size] = Job(parts, beams, BASE_TARGET if base else None)
    return made


def take_turns(
    workers: dict[str, Worker], job: Job, extent: Extent
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each round, and tokens of a round, by engine.

    The peer stops taking part when it alone has used its time: it may need ten times as long as the others.
    """
    times: dict[str, list[float]] = {name: [] for name in workers}
    tokens: dict[str, int] = {}
    for worker in workers.values():  # memory and threads, once
        worker.run(Job(job.batches[:1], job.beams, 2))
    while (rounds := len(times["int8"])) < extent.rounds[1]:
        if rounds >= extent.rounds[0] and sum(times["int8"]) + sum(times["float32"]) > extent.seconds:
            break
        for name, worker in workers.items():
            if name == PEER and sum(times[PEER]) > extent.seconds:
                continue
            done = worker.run(job)
            times[name].append(done.seconds)
            tokens[name] = done.tokens
    if job.length and len(set(tokens.values())) > 1:
        raise RuntimeError(f"the engines wrote different numbers of tokens: {tokens}")
    return times, tokens


def ratios(times: dict[str, list[float]], fast: str, slow: str) -> list[float]:
    """How many times as fast, round by round; none without the peer, which may also have fewer rounds."""
    return [b / a for a, b in zip(times[fast], times.get(slow, []), strict=False)]


def rates(times: dict[str, list[float]], totals: dict[str, int]) -> list[float | None]:
    """Of int8, float32 and the peer, by the median round."""
    engines = ("int8", "float32", PEER)
    return [totals[name] / median(times[name]) if name in times else None for name in engines]


def measure(
    model: str, checkpoint: Path, directories: dict[str, Path], extent: Extent, report: Report
) -> None:
    """Add a table and its verdicts to the report."""
    paths = dict(directories)
    if extent.peer and have_transformers():
        paths[PEER] = checkpoint
    title = f"{model}: sentences (s/s) and tokens (tok/s) a second; peer: transformers with torch, float32"
    table = Table(title, COLUMNS)
    medians: dict[tuple[str, str], list[float]] = {("int8", "float32"): [], ("float32", PEER): []}
    work = jobs(model, directories["int8"], extent.batches)
    with tqdm(total=len(extent.threads) * len(work), desc=model, leave=False) as bar:
        for threads in extent.threads:
            workers = {
                name: Worker(Setup(PEER if name == PEER else PYENGINE, path, threads)) for name, path in paths.items()
            }
            for (beams, batch), job in work.items():
                times, tokens = take_turns(workers, job, extent)
                sentences = dict.fromkeys(paths, sum(map(len, job.batches)))
                shown = []
                for pair, found in medians.items():
                    values = ratios(times, *pair)
                    shown.append(spread(values) if values else None)
                    found += [median(values)] if values else []
                rounds = "/".join(str(len(values)) for values in times.values())
                rows = rates(times, sentences) + rates(times, tokens)
                table.rows.append([threads, beams, batch, *rows, *shown, rounds])
                bar.update()
            for worker in workers.values():
                worker.stop()
    report.tables.append(table)
    demands = ("int8 faster than float32", "float32 not slower than transformers with torch")
    for demand, found in zip(demands, medians.values(), strict=True):
        if found:
            slowest = f"at least {min(found):.2f} times as fast"
            report.verdicts.append(Verdict(f"{model}: {demand}, at every setting", slowest, min(found) >= 1))


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--quick", action="store_true", help="a few settings, no peer: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    report = Report("speed", {**asdict(extent), "base_tokens": {"read": BASE_SOURCE, "written": BASE_TARGET}})
    for model in extent.models:
        checkpoint = models.checkpoint(model, options.work)
        directories = models.directories(model, checkpoint, options.work)
        measure(model, checkpoint, directories, extent, report)
    if extent.peer and not have_transformers():
        report.notes.append("transformers with torch is not installed: the peer's columns are empty.")
    publish(report, options)


if __name__ == "__main__":
    main()

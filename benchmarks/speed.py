"""Sentences and tokens a second: int8, float32 and transformers with torch (float32), side by side.

    python benchmarks/speed.py

A call translates one batch, token ids in and out; the engines take turns (A B C A B C ...), each in a process of its
own, so that a ratio compares neighbours in time. Ratios are the medians over the rounds, with the smallest and the
largest. The example checkpoint translates sentences of test_2016_flickr, batches of like lengths, to their natural
end. The random base-size model reads 31 tokens and writes exactly 32. A call of pyengine with 64 sentences is one
call with its default `max_batch_tokens`. Without torch and transformers their columns stay empty.
"""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import models
import numpy as np
from peers import Transformers, have_transformers
from report import Report, Table, Verdict, parser, publish, spread
from tqdm import tqdm

import pyengine
from pyengine.modelfile import open_directory
from pyengine.text import open_tokenizer

BATCHES = (1, 8, 32, 64)
BEAMS = (1, 4)
THREADS = (1, 2)
ROUNDS = (3, 15)  # at least, at most
BASE_SOURCE, BASE_TARGET = 31, 32
PEER = "transformers"

Sources = list[list[int]]


@dataclass(frozen=True)
class Job:
    """Sentences in batches, and the options of the search by transformers' names."""

    batches: list[Sources]
    beams: int
    options: dict[str, int]


class Worker:
    """An engine in a process of its own."""

    def __init__(self, engine: str, path: Path, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, remote = context.Pipe()
        self._process = context.Process(target=_serve, args=(remote, engine, path, threads), daemon=True)
        self._process.start()
        remote.close()

    def run(self, job: Job) -> tuple[float, list[int]]:
        """Seconds, and the tokens of each sentence's translation, end token included."""
        self._pipe.send(job)
        return self._pipe.recv()

    def stop(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Any, engine: str, path: Path, threads: int) -> None:
    translate = _open_peer(path, threads) if engine == PEER else _open_engine(path, threads)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        counts: list[int] = []
        start = time.perf_counter()
        for batch in job.batches:
            counts += translate(batch, job.beams, job.options)
        pipe.send((time.perf_counter() - start, counts))


def _open_engine(path: Path, threads: int) -> Any:
    translator = pyengine.load(path, threads=threads)

    def translate(batch: Sources, beams: int, options: dict[str, int]) -> list[int]:
        # Ids go without the end token, whether the model wrote it or the length forced it.
        return [len(result.ids) + 1 for result in translator.translate(batch, num_beams=beams, **options)]

    return translate


def _open_peer(path: Path, threads: int) -> Any:
    peer = Transformers(path, threads=threads)

    def translate(batch: Sources, beams: int, options: dict[str, int]) -> list[int]:
        return [len(ids) for ids in peer.translate(batch, beams, **options)]

    return translate


def example_sources(directory: Path, count: int) -> Sources:
    """Token ids of the first sentences of test_2016_flickr, by length."""
    texts, _ = models.read_pairs(models.EXAMPLE / "test_2016_flickr", count)
    opened = open_directory(directory)
    sizes = {"source_vocab": opened.config.source_vocab, "target_vocab": opened.config.target_vocab}
    tokenizer = open_tokenizer(directory, opened.tokenizer_kind, **sizes)
    return sorted((list(tokenizer.encode_source(text)) for text in texts), key=len)


def base_sources(directory: Path, count: int) -> Sources:
    """Random ids, the end token last."""
    config = open_directory(directory).config
    ids = np.random.default_rng(1).integers(1, config.source_vocab - 1, (count, BASE_SOURCE - 1))
    return [[*row, 0] for row in ids.tolist()]


def jobs(model: str, sources: Sources) -> dict[tuple[int, int], Job]:
    """(beams, batch) -> one round of it. At batch 1 the base-size model takes 4 sentences, which are long enough."""
    made = {}
    for beams in BEAMS:
        for batch in BATCHES:
            base = model == models.BASE_NAME
            chosen = sources[: max(batch, 4)] if base else sources
            limits = {"min_new_tokens": BASE_TARGET, "max_new_tokens": BASE_TARGET} if base else {}
            batches = [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
            made[beams, batch] = Job(batches, beams, limits)
    return made


def take_turns(workers: dict[str, Worker], job: Job, seconds: float) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each round and tokens of a round, by engine; rounds for about `seconds`, the first not counted."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    tokens = {}
    counts = {}
    for name, worker in workers.items():
        _, counts[name] = worker.run(Job(job.batches[:1], job.beams, job.options))
    if job.options and len({tuple(of) for of in counts.values()}) > 1:
        raise RuntimeError("the engines wrote different numbers of tokens")
    started = time.perf_counter()
    while len(times["int8"]) < ROUNDS[1]:
        if len(times["int8"]) >= ROUNDS[0] and time.perf_counter() - started > seconds:
            break
        for name, worker in workers.items():
            elapsed, counts = worker.run(job)
            times[name].append(elapsed)
            tokens[name] = sum(counts)
    return times, tokens


def ratios(slower: list[float] | None, faster: list[float]) -> list[float] | None:
    return None if slower is None else [a / b for a, b in zip(slower, faster, strict=True)]


def measure(model: str, checkpoint: Path, directories: dict[str, Path], seconds: float, report: Report) -> None:
    """Add a table and two verdicts to the report."""
    names = ["int8", "float32", *([PEER] if have_transformers() else [])]
    table = Table(
        f"{model}: sentences and tokens a second; int8 over float32, and float32 over transformers, as median "
        "(smallest-largest) of the rounds",
        {"threads": "d", "beams": "d", "batch": "d", "int8 s/s": ".1f", "float32 s/s": ".1f", "peer s/s": ".1f",
         "int8 tok/s": ".0f", "float32 tok/s": ".0f", "peer tok/s": ".0f", "int8/float32": "", "float32/peer": "",
         "rounds": "d"},
    )  # fmt: skip
    sources = (base_sources if model == models.BASE_NAME else example_sources)(directories["int8"], max(BATCHES))
    worst: dict[str, list[float]] = {"int8/float32": [], "float32/peer": []}
    work = jobs(model, sources)
    bar = tqdm(total=len(THREADS) * len(work), desc=model, leave=False)
    for threads in THREADS:
        workers = {name: Worker(name, directories.get(name, checkpoint), threads) for name in names}
        for (beams, batch), job in work.items():
            times, tokens = take_turns(workers, job, seconds)
            found = {
                "int8/float32": ratios(times["float32"], times["int8"]),
                "float32/peer": ratios(times.get(PEER), times["float32"]),
            }
            sentences = sum(map(len, job.batches))
            middle = {name: median(of) for name, of in times.items()}
            per_second = [
                total / middle[name] if name in middle else None
                for totals in (dict.fromkeys(names, sentences), tokens)
                for name in ("int8", "float32", PEER)
                for total in [totals.get(name, 0)]
            ]
            shown = [None if values is None else spread(values) for values in found.values()]
            table.rows.append([threads, beams, batch, *per_second, *shown, len(times["int8"])])
            for name, values in found.items():
                worst[name] += [] if values is None else [median(values)]
            bar.update()
        for worker in workers.values():
            worker.stop()
    bar.close()
    report.tables.append(table)
    demands = {"int8/float32": "int8 faster than float32 at every setting"}
    demands["float32/peer"] = "float32 not slower than transformers with torch at any setting"
    for name, demand in demands.items():
        if worst[name]:
            lowest = min(worst[name])
            report.verdicts.append(Verdict(f"{model}: {demand}", f"at least {lowest:.2f} times", lowest >= 1))
    if PEER not in names:
        report.notes.append("transformers with torch is not installed: its columns are empty.")


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--models", nargs="+", choices=(models.EXAMPLE_NAME, models.BASE_NAME),
                      default=(models.EXAMPLE_NAME, models.BASE_NAME), help="(default: both)")  # fmt: skip
    made.add_argument("--seconds", type=float, default=8.0, help="for each setting, about (default: %(default)s)")
    options = made.parse_args()
    report = Report("speed", {"base_source_tokens": BASE_SOURCE, "base_target_tokens": BASE_TARGET})
    for model in options.models:
        checkpoint = models.checkpoint(model, options.work)
        directories = models.directories(model, checkpoint, options.work)
        measure(model, checkpoint, directories, options.seconds, report)
    publish(report, options)


if __name__ == "__main__":
    main()

"""When tokens come: beside a long prompt that joins, and how much of a step of a language model is Python's.

    python benchmarks/latency.py

SmolLM2 135M in int8 with two threads. Eight requests are being written, each behind a prompt of eight random ids, while
the prompt of a ninth, 4,096 long, runs in chunks beside them. Of the eight, times between two tokens are those until
the ninth has its first token, and those after it: when nobody waits, greedy search runs up to 20 ms ahead, and its
tokens come in bunches, with nothing between those of a bunch.

A step's Python is what is left of the time of its thread when a timer looks, every five milliseconds, in which
functions of the core it is (as in phases.py): greedy search by `generate`, ids in and text out; and `stream` of a text
with samples drawn (temperature 0.8, top-p 0.9), a piece of text a token.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import language_models
import numpy as np
from language_models import RANDOM, SMOLLM2, Shape
from phases import PYTHON, phase_of
from report import Report, Table, Verdict, parser, publish
from sampling import PERIOD, Sampler
from tqdm import tqdm

import pyengine
from pyengine.modelfile import open_directory
from pyengine.options import GenerationOptions
from pyengine.scheduling.deadline import Deadline
from pyengine.scheduling.scheduler import Request, Scheduler
from pyengine.tasks.engine import open_engine
from pyengine.tasks.task import BATCH_TOKENS

MOST_GREEDY, MOST_SAMPLED = 5.0, 15.0


@dataclass(frozen=True)
class Extent:
    """What is measured: requests under way and their tokens, the prompt that joins; seconds of looks at a way."""

    model: str = SMOLLM2
    shape: Shape = Shape()
    threads: int = 2
    running: int = 8
    start: int = 8
    new: int = 96
    joining: int = 4096
    rounds: int = 3
    tokens: int = 256
    seconds: float = 10.0


QUICK = Extent(
    model=RANDOM, shape=Shape(layers=2, width=256, heads=4, kv_heads=2, ffn_width=512, vocab=1000, positions=4096),
    threads=1, running=2, new=16, joining=2048, rounds=1, tokens=16, seconds=0.2,
)  # fmt: skip


@dataclass(frozen=True)
class Joined:
    """Seconds to the first token of the prompt that joined; between tokens of the others until then, and after; the
    fewest and the most tokens that one of them got until then."""

    first: float
    beside: list[float]
    after: list[float]
    fewest: int
    most: int


def join(directory: Path, extent: Extent, lengths: list[int]) -> Joined:
    """Requests with prompts of these lengths, the last of which joins the others."""
    opened = open_directory(directory)
    engine, _ = open_engine(opened, threads=extent.threads)
    decoder, vocab = opened.config.target_side()
    options = GenerationOptions(num_beams=1, min_new_tokens=extent.new, max_new_tokens=extent.new).resolve(
        engine.generation, vocab, decoder.max_positions
    )
    rng = np.random.default_rng(1)
    requests = [Request(None, rng.integers(vocab // 3, vocab - 1, n).astype(np.int32), options) for n in lengths]
    last = len(requests) - 1
    times: dict[int, list[float]] = {i: [] for i in range(len(requests))}
    with engine.session(Deadline()) as session:
        scheduler = Scheduler(
            session, vocab=vocab, budget=BATCH_TOKENS, deadline=Deadline(), rope_set=opened.config.rope_set
        )
        start = time.perf_counter()
        for event in scheduler.events(requests):
            times[event.request] += [time.perf_counter() - start] * len(event.ids)
    first = times[last][0]
    beside, after, counts = [], [], []
    for i in range(last):
        own = times[i]
        counts.append(sum(each <= first for each in own))
        for begin, end in zip(own, own[1:], strict=False):
            (beside if end <= first else after).append(end - begin)
    return Joined(first, beside, after, min(counts, default=0), max(counts, default=0))


def python_share(do: Callable[[], object], sampler: Sampler, seconds: float) -> tuple[float, int]:
    """Per cent of this thread's time in `do` that is Python's, and of how many looks."""
    do()  # memory, once
    found: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while not found or time.monotonic() < end:
        with sampler.samples() as samples:
            do()
        found.update(phase_of(functions) for _, functions in samples)
    return 100 * found[PYTHON] / found.total(), found.total()


def main() -> None:
    made = parser(__doc__)
    language_models.add_options(made)
    made.add_argument("--quick", action="store_true", help="a small model, once: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    options.work.mkdir(parents=True, exist_ok=True)
    source = language_models.source(extent.model, options, extent.shape)
    directory = language_models.own_directory(source, "int8", options.work)
    report = Report("latency", {**asdict(extent), "period_ns": PERIOD, "rows of a step": BATCH_TOKENS})
    measure_joining(directory, extent, report)
    measure_python(directory, extent, report)
    publish(report, options)


def measure_joining(directory: Path, extent: Extent, report: Report) -> None:
    title = f"A prompt of {extent.joining:,} joins {extent.running} requests; between their tokens, ms; medians of runs"
    table = Table(title, {"": "", "median": ".1f", "99th percentile": ".1f", "longest": ".1f", "tokens": "d"})
    lengths = [extent.start] * extent.running + [extent.joining]
    runs = [join(directory, extent, lengths) for _ in tqdm(range(extent.rounds), desc="joining", leave=False)]
    for name in ("beside", "after"):
        gaps = [np.array(getattr(run, name)) * 1e3 for run in runs]
        cells = [float(np.median([measure(each) for each in gaps])) for measure in (np.median, _last, np.max)]
        table.rows.append([{"beside": "while it joins", "after": "after it"}[name], *cells, len(gaps[0])])
    report.tables.append(table)
    alone = [join(directory, extent, [extent.joining]).first for _ in range(extent.rounds)]
    firsts = Table("Its first token", {"": "", "seconds": ".2f", "steps": ""})
    firsts.rows.append(["beside them", float(np.median([run.first for run in runs])), str(runs[0].most)])
    firsts.rows.append(["alone", float(np.median(alone)), str(-(-extent.joining // BATCH_TOKENS))])
    report.tables.append(firsts)
    even = all(run.fewest == run.most for run in runs)
    counts = f"{min(run.fewest for run in runs)} to {max(run.most for run in runs)} tokens each"
    report.verdicts.append(Verdict("requests under way get a token in every step while a prompt joins", counts, even))


def _last(values: np.ndarray) -> float:
    return float(np.percentile(values, 99))


def measure_python(directory: Path, extent: Extent, report: Report) -> None:
    table = Table(f"Python's share of a step, {extent.threads} threads", {"": "", "%": ".1f", "looks": ",d"})
    sampler = Sampler()
    exact = {"min_new_tokens": extent.tokens, "max_new_tokens": extent.tokens}
    with pyengine.load(directory, task=pyengine.Generator, threads=extent.threads) as generator:
        ids = list(range(300, 300 + extent.start))
        drawn = {"temperature": 0.8, "top_p": 0.9, "seed": 7}
        ways: dict[str, tuple[Callable[[], object], float]] = {
            "greedy": (lambda: generator.generate(ids, num_beams=1, **exact), MOST_GREEDY),
            "sampled and streamed with text": (
                lambda: [piece.text for piece in generator.stream("Once upon a time", **drawn, **exact)], MOST_SAMPLED,
            ),
        }  # fmt: skip
        for name, (do, most) in ways.items():
            share, looks = python_share(do, sampler, extent.seconds)
            table.rows.append([name, share, looks])
            report.verdicts.append(Verdict(f"Python's share, {name}: under {most:g} %", f"{share:.1f} %", share < most))
    report.tables.append(table)


if __name__ == "__main__":
    main()

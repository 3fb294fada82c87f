"""Where the time of a step goes: products, attention, norms, logits, Python.

    python benchmarks/phases.py

A step runs all rows that a call has at a time through the model. An encoder step reads whole source sentences, every
token a row; a decoding step writes a token of each sentence, and is run again for the next. Both are steps of ordinary
calls of `translate`, int8, greedy, one thread, token ids in and out: the base-size model reads 31 tokens and writes
exactly 32, the example translates sentences of test_2016_flickr to their end. A session that stands between the search
and the core has the core run the encoder's part of a first step on its own, which changes no result.

Times are of calls that nobody looks at. In turn with them the same calls run while a timer looks, every five
milliseconds, in which functions of the core the thread is (sampler.c): shares are shares of these looks. The engine
takes part in neither; its code is that of every other run. With more threads there would be waiting for one another,
too, which is no work.

- products: weights times rows in the layers, with bias, activation and what is added to the result
- attention: rows against the keys and values in the cache
- norms, rounding, storing: what else goes over rows, such as rounding them to int8, and writing keys and values
- logits: the last product, over the vocabulary, with its normalizer and the best candidates
- rest of the core: checks, page lists, and the search where it runs in C
- Python: the interpreter, NumPy, search and scheduler; of an encoder step no more than its call
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import models
import speed
from report import Report, Table, Verdict, parser, publish
from sampling import PERIOD, Sampler
from tqdm import tqdm

from pyengine.modelfile import open_directory
from pyengine.plan import Plan, Session, StepResult
from pyengine.tasks.engine import Engine, open_engine
from pyengine.tasks.translator import Translator

PYTHON = "Python"
PHASES = (
    ("logits", r"pe_op_logits\w*"),
    ("norms, rounding, storing",
     r"pe_op_(prepare|norm|gate|embed|embed_narrow|angles|store)|pe_(prepare|embed_row|norm_row)|store"
     r"|pe_(quantize|norm|rmsnorm|turn|gate|store)_.*"),
    ("attention", r"pe_op_attend|pe_attend_.*"),
    ("products", r"pe_op_linear|pe_multiply|pe_gemm_.*"),
    ("rest of the core", r"pe_.*"),
)  # fmt: skip
"""A sample is in the first phase whose pattern is the name of one of its functions; else in Python."""
SHOWN = ("products", "attention", "norms, rounding, storing", "logits", "rest of the core", PYTHON)
DECODING, ENCODER = 0, 1  # marks of samples
STEPS = ("decoding", "encoder")
BEFORE_ROWS = (
    "forks", "free_sequences", "free_memories", "encode_tokens", "encode_lengths", "encode_memories", "encode_types",
)  # fmt: skip
"""Of a plan: what a step does before its decoder rows."""
WRITTEN = {models.EXAMPLE_NAME: None, models.BASE_NAME: speed.BASE_TARGET}
"""Tokens of a sentence; None: to its end."""


@dataclass(frozen=True)
class Extent:
    """What is measured: `sentences` a call; `seconds` for the times of a setting, and for its samples."""

    models: tuple[str, ...] = (models.EXAMPLE_NAME, models.BASE_NAME)
    sentences: tuple[int, ...] = (1, 32)
    seconds: float = 40.0


QUICK = Extent((models.EXAMPLE_NAME,), (2,), 0.2)


Mark = Callable[[int], AbstractContextManager[None]]


@dataclass
class Count:
    """Steps of a kind, the rows of all of them, and their seconds."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0


class Parted:
    """A session that encodes in steps of its own, and counts its steps."""

    def __init__(self, session: Session, mark: Mark, counts: tuple[Count, Count]) -> None:
        self._session, self._mark = session, mark
        self._decoding, self._encoder = counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def step(self, plan: Plan, *waiting: float) -> StepResult | None:
        if len(plan.encode_tokens):
            start, nothing = time.perf_counter(), Plan()
            with self._mark(ENCODER):
                self._session.step(Plan(**{name: getattr(plan, name) for name in BEFORE_ROWS}))
            self._encoder.steps += 1
            self._encoder.rows += len(plan.encode_tokens)
            self._encoder.seconds += time.perf_counter() - start
            plan = replace(plan, **{name: getattr(nothing, name) for name in BEFORE_ROWS})
        result = self._session.step(plan, *waiting)
        steps = 1 + (0 if result is None or result.passed is None else len(result.passed[0]))
        self._decoding.steps += steps
        self._decoding.rows += steps * len(plan.tokens)
        return result


class Calls:
    """Calls of one model with one thread. `mark`: a `with` block of it says what is going on."""

    def __init__(self, directory: Path, mark: Mark) -> None:
        opened = open_directory(directory)
        engine, about = open_engine(opened, threads=1)
        open_session = engine.opener()
        self._counts = Count(), Count()

        def open_parted(threads: int) -> Session:
            return Parted(open_session(threads), mark, self._counts)

        self.translator = Translator(Engine(opened.config, opened.generation, open_parted), None, about)

    def run(self, batches: list[speed.Sources], length: int | None) -> tuple[Count, Count]:
        """Of a call a batch: decoding steps, with all that is not an encoder step, and encoder steps."""
        decoding, encoder = self._counts
        for count in self._counts:
            count.steps, count.rows, count.seconds = 0, 0, 0.0
        start = time.perf_counter()
        for batch in batches:
            self.translator.translate(batch, num_beams=1, min_new_tokens=length, max_new_tokens=length)
        decoding.seconds = time.perf_counter() - start - encoder.seconds
        return replace(decoding), replace(encoder)


def sum_of(counts: tuple[Count, Count]) -> float:
    """Seconds of both."""
    return sum(count.seconds for count in counts)


def phase_of(functions: list[str]) -> str:
    """Of a sample: the core's functions that the thread is in."""
    for phase, pattern in PHASES:
        if any(re.fullmatch(pattern, name) for name in functions):
            return phase
    return PYTHON


def measure(model: str, directory: Path, extent: Extent, sampler: Sampler, table: Table) -> float:
    """Add the model's rows to the table; how much longer calls take while they are looked at, at most."""
    sources = (speed.base_sources if model == models.BASE_NAME else speed.example_sources)(directory, 32)
    calls, length, slowest = Calls(directory, sampler.mark), WRITTEN[model], 0.0
    for count in extent.sentences:
        batches = [sources[start : start + count] for start in range(0, len(sources), count)]
        calls.run(batches, length)  # memory, once
        plain: list[tuple[Count, Count]] = []
        watched: list[tuple[Count, Count]] = []
        found: tuple[Counter[str], ...] = Counter(), Counter()
        end = time.monotonic() + extent.seconds
        while not plain or time.monotonic() < end:
            plain.append(calls.run(batches, length))
            with sampler.samples() as samples:
                watched.append(calls.run(batches, length))
            for mark, functions in samples:
                found[mark][phase_of(functions)] += 1
        for step in (ENCODER, DECODING):
            one, total = plain[0][step], found[step].total()
            seconds = median(each[step].seconds for each in plain) / one.steps
            shares = [100 * found[step][phase] / total for phase in SHOWN] if total else [None] * len(SHOWN)
            table.rows.append([model, STEPS[step], count, one.rows / one.steps, seconds * 1e3, *shares, total])
        both = zip(watched, plain, strict=True)
        slowest = max(slowest, median(sum_of(a) / sum_of(b) for a, b in both) - 1)
    return slowest


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--quick", action="store_true", help="one setting, for a moment: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    sampler = Sampler()
    report = Report("phases", {**asdict(extent), "written": WRITTEN, "period_ns": PERIOD})
    columns = {"model": "", "step": "", "sentences": "d", "rows": ".0f", "ms": ".3f"}
    columns |= {f"{phase}, %": ".1f" for phase in SHOWN} | {"samples": ",d"}
    table = Table("A step, one thread, greedy, int8", columns)
    slowest = 0.0
    for model in extent.models:
        directories = models.directories(model, models.checkpoint(model, options.work), options.work)
        slowest = max(slowest, measure(model, directories["int8"], extent, sampler, table))
    report.tables.append(table)
    demand = "calls that are looked at take at most 5 % longer"
    report.verdicts.append(Verdict(demand, f"at most {100 * slowest:.1f} %", slowest <= 0.05))
    publish(report, options)


if __name__ == "__main__":
    main()

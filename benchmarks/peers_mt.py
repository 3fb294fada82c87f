"""Translation against CTranslate2, on the same input, in turn, each in a process of its own.

    python benchmarks/peers.py mt
    python benchmarks/peers.py mt --isa avx2       # both held to AVX2; the base-size model only

(a) The example checkpoint on test_2016_flickr, text in and text out: one sentence at a time, and the whole set in one
call. (b) The random base-size model, sources of 31 random ids that differ in every call, exactly 32 tokens written.
At least five pairs a setting; a ratio is the median over the pairs, with the smallest and the largest. --part runs (a)
or (b) alone.

For each setting CTranslate2 first gets a trial of its backends (MKL with packed weights, oneDNN), its instruction sets
(as it picks them, and AVX-512 forced), one worker with all threads or one a thread, and, where a call has many
sentences, of batch sizes; the table names what was best, WORKERSxTHREADS. What is best with few rows and what is best
with many both stay in the choice; a way whose first call takes three times as long as the best's is given up. This
engine, too, runs in one stream or in one a thread, whichever wins the trial of a setting (column `as`). Fresh processes
are timed from the call that loads the model to the first translated sentence, tokenizers included; the import is listed
beside it.

Limits are measured in the same run. Shares of them: for one sentence, greedy, bytes of weights that its steps read,
against the read bandwidth (same number of threads, 52 MB); else int8 operations of encoder, memory and decoder rows
(attention not counted), against the int8 peak. CTranslate2 is compared with what is known of it on another machine:
its best figures there are scaled by the bandwidth over 52 MB for one sentence, by the int8 peak for more (known.py).

With --isa avx2 pyengine is held to AVX2 by `PYENGINE_ISA`, and CTranslate2 by `CT2_FORCE_CPU_ISA`, `ONEDNN_MAX_CPU_ISA`
and `MKL_ENABLE_INSTRUCTIONS` together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import known
import limits
import models
import numpy as np
from engines import CTRANSLATE2, PYENGINE, Job, Setup, Worker, have_ctranslate2
from report import Report, Table, spread
from tqdm import tqdm
from verdicts import Pairs, Row, judge_avx2, judge_base, judge_example, judge_fresh

from pyengine import _core
from pyengine.canonical import AttentionConfig, ModelConfig
from pyengine.modelfile import open_directory

READ, WRITTEN = 31, 32
HOPELESS = 3
"""A way whose first call takes so many times as long as that of the best gets no second; a neighbour costs twice."""
AVX2 = {
    PYENGINE: {"PYENGINE_ISA": "avx2"},
    CTRANSLATE2: {
        "CT2_FORCE_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """What is measured: `seconds` and at least `pairs` a setting; `lines` of the example's test set."""

    threads: tuple[int, ...] = (1, 2)
    calls: tuple[tuple[int, int], ...] = ((1, 1), (1, 8), (1, 32), (1, 64), (1, 128), (4, 1), (4, 8), (4, 32), (4, 64))
    lines: int = 1000
    single: int = 40
    pairs: tuple[int, int] = (5, 15)
    seconds: float = 5.0
    pause: float = 0.0  # before a call
    rounds: int = 3  # of the limits


QUICK = Extent(threads=(1,), calls=((1, 1),), lines=8, single=4, pairs=(1, 1), rounds=1)


class Bench:
    """Runs both engines on the jobs of one model."""

    def __init__(self, ours: Path, peer: Path | None, tokenizer: Path | None, isa: str, extent: Extent) -> None:
        self._ours, self._peer, self._tokenizer, self._isa, self._extent = ours, peer, tokenizer, isa, extent

    def ours(self, threads: int) -> list[Setup]:
        """The ways to run this engine."""
        environment = AVX2[PYENGINE] if self._isa == "avx2" else {}
        return [Setup(PYENGINE, self._ours, threads // n, n, environment) for n in sorted({1, threads})]

    def peers(self, threads: int) -> list[Setup]:
        """Every way to run CTranslate2."""
        found: list[Setup] = []
        if self._peer is None:
            return found
        if self._isa == "avx2":
            sets = [AVX2[CTRANSLATE2]]
        else:
            sets = [{}, {"CT2_FORCE_CPU_ISA": "AVX512"}] if self._isa == "avx512vnni" else [{}]
        backends = [{"CT2_USE_MKL": "0"}, {"CT2_USE_MKL": "1", "CT2_USE_EXPERIMENTAL_PACKED_GEMM": "1"}]
        for backend, instructions in itertools.product(backends, sets):
            for workers in sorted({1, threads}):
                environment = {**backend, **instructions}
                setup = Setup(CTRANSLATE2, self._peer, threads // workers, workers, environment, self._tokenizer)
                found.append(setup)
        return found

    def workers(self, threads: int, trial: list[Job]) -> tuple[list[Worker], list[Worker]]:
        """This engine in its ways, and CTranslate2 in what is fastest on each job of `trial` for a number of streams.

        What is fastest with few rows need not be with many: a way that loses one job may win another.
        """
        best: dict[tuple[int, int], tuple[list[float], Worker]] = {}
        for setup in self.peers(threads):
            worker = Worker(setup)
            for i, job in enumerate(trial):
                kept = best.get((setup.workers, i))
                times = _tried(worker, job, kept[0] if kept else None)
                if kept is None or min(times) < min(kept[0]):
                    best[setup.workers, i] = times, worker
                    if kept is not None:
                        _stop_unless(kept[1], best.values())
            _stop_unless(worker, best.values())
        kept_workers = dict.fromkeys(worker for _, worker in best.values())  # one may be the best of several jobs
        return [Worker(setup) for setup in self.ours(threads)], list(kept_workers)

    def pairs(
        self, workers: tuple[list[Worker], list[Worker]], job: Callable[[int], Job], limits_of: Iterable[int | None]
    ) -> Pairs:
        """`job(i)`: the i-th input. The best way of each side is found first, then both take turns."""
        own, _ = _best(workers[0], job, [None])
        peer, limit = _best(workers[1], job, limits_of)
        assert own is not None
        found = Pairs(own.setup, peer.setup if peer else None, limit)
        start, least, most = time.monotonic(), *self._extent.pairs
        while (count := len(found.ours)) < most:
            if count >= least and time.monotonic() - start > self._extent.seconds:
                break
            work = job(count + 3)
            time.sleep(self._extent.pause)
            done = own.run(work)
            found.ours.append(done.seconds)
            found.our_tokens.append(done.tokens)
            found.our_texts = done.texts
            if peer is not None:
                time.sleep(self._extent.pause)
                other = peer.run(replace(work, limit=limit))
                found.peer.append(other.seconds)
                found.peer_tokens.append(other.tokens)
                found.peer_texts = other.texts
        return found


def _tried(worker: Worker, job: Job, best: list[float] | None) -> list[float]:
    """Seconds of two calls, or of the first if it falls far behind the first of `best`: some ways take minutes."""
    times = [worker.run(job).seconds]
    if best is None or times[0] < HOPELESS * best[0]:
        times.append(worker.run(job).seconds)
    return times


def _stop_unless(worker: Worker, kept: Iterable[tuple[list[float], Worker]]) -> None:
    if all(worker is not other for _, other in kept):
        worker.stop()


def _best(
    workers: list[Worker], job: Callable[[int], Job], limits_of: Iterable[int | None]
) -> tuple[Worker | None, int | None]:
    """The fastest of the workers, and its batch size, in a trial."""
    best: tuple[float, Worker | None, int | None] = (float("inf"), None, None)
    first = float("inf")  # of the best's first call, which may be slower than those after it
    for worker, limit in itertools.product(workers, limits_of):
        trial = [worker.run(replace(job(0), limit=limit)).seconds]
        if trial[0] > HOPELESS * first:
            continue
        trial.append(worker.run(replace(job(1), limit=limit)).seconds)
        if trial[1] < best[0] * 1.3:
            trial.append(worker.run(replace(job(2), limit=limit)).seconds)
        if min(trial[1:]) < best[0]:
            best, first = (min(trial[1:]), worker, limit), trial[0]
    return best[1:]


def weights_of_a_step(config: ModelConfig) -> int:
    """Weights that a decoder step multiplies with, one row's worth of products."""
    layers = config.decoder.layers
    inner = sum(4 * width_of(layer.self_attention) + 2 * width_of(layer.cross_attention) for layer in layers)
    neurons = sum(layer.feed_forward.width for layer in layers)
    return config.width * (inner + 2 * neurons + config.target_vocab)


def width_of(attention: AttentionConfig) -> int:
    return attention.heads * attention.head_width


def operations(config: ModelConfig, beams: int) -> float:
    """int8 operations for one sentence of task (b): encoder, memory, and every step's rows."""
    layers = config.encoder.layers
    inner = sum(4 * width_of(layer.self_attention) + 2 * layer.feed_forward.width for layer in layers)
    memory = 2 * sum(width_of(layer.cross_attention) for layer in config.decoder.layers)
    rows = 1 + (WRITTEN - 1) * beams  # the first step's beams are one row
    return 2.0 * (READ * config.width * (inner + memory) + rows * weights_of_a_step(config))


COLUMNS = {
    "threads": "d", "beams": "d", "sentences": "d", "tok/s": ",.0f", "peer tok/s": ",.0f", "ratio": "", "as": "",
    "% of bandwidth": ".0f", "% of int8 peak": ".0f", "peer's best setting": "", "pairs": "d",
}  # fmt: skip


def measure_base(
    bench: Bench, config: ModelConfig, isa: str, before: dict[int, limits.Limits], extent: Extent, report: Report
) -> dict[Row, Pairs]:
    """Task (b): a table; what was found. `before`: limits by threads, measured before."""
    rng = np.random.default_rng(1)

    def job(beams: int, count: int) -> Job:
        ids = rng.integers(1, config.source_vocab - 1, (count, READ - 1))
        return Job([[[*row, 0] for row in ids.tolist()]], beams, WRITTEN)

    found: dict[Row, Pairs] = {}
    with tqdm(total=len(extent.threads) * len(extent.calls), desc="base", leave=False) as bar:
        for threads in extent.threads:
            # The same products again and again, few rows and many: some steps tell enough, and some ways take
            # forty times as long.
            workers = bench.workers(threads, [replace(job(*call), length=8) for call in ((1, 1), (4, 8))])
            for beams, count in extent.calls:
                jobs = [job(beams, count) for _ in range(extent.pairs[1] + 3)]
                found[threads, beams, count] = bench.pairs(workers, jobs.__getitem__, [None])
                bar.update()
            for worker in itertools.chain(*workers):
                worker.stop()
    table = Table(
        f"(b) base size, int8, {READ} tokens in, {WRITTEN} out, tokens written a second; peer: CTranslate2", COLUMNS
    )
    for (threads, beams, count), pairs in found.items():
        limit = before[threads]
        reading = work = None
        if count == 1:
            steps = pairs.rate * weights_of_a_step(config)
            reading = 100 * steps / limit.read(limits.CACHED)
        if limit.int8(isa):
            work = 100 * pairs.rate / WRITTEN * operations(config, beams) / limit.int8(isa)
        shown = spread(pairs.ratios) if pairs.ratios else None
        cells = [pairs.rate, pairs.peer_rate, shown, pairs.own_setting, reading, work, pairs.peer_setting]
        table.rows.append([threads, beams, count, *cells, len(pairs.ours)])
    report.tables.append(table)
    for threads, limit in before.items():
        report.settings[f"limits, {threads} threads"] = limit.figures
        after = limits.measure(limits.CACHED, threads=threads, rounds=extent.rounds)
        reads = [each.read(limits.CACHED) / 1e9 for each in (limit, after)]
        peaks = [each.int8(isa) / 1e9 for each in (limit, after)]
        report.notes.append(
            f"Limits with {threads} threads, before and after: {reads[0]:.1f} and {reads[1]:.1f} GB/s over "
            f"{limits.CACHED / 1e6:.0f} MB, {peaks[0]:.0f} and {peaks[1]:.0f} GOPS of int8 on {isa}."
        )
    report.settings["weights of a step"] = weights_of_a_step(config)
    return found


def measure_example(bench: Bench, extent: Extent, report: Report) -> tuple[dict[Row, Pairs], dict[int, list[float]]]:
    """Task (a): a table; what was found, and BLEU of both sides by beams."""
    source, target = models.read_pairs(models.EXAMPLE / "test_2016_flickr", extent.lines)
    found: dict[Row, Pairs] = {}
    bleu: dict[int, list[float]] = {}

    def one_by_one(beams: int) -> list[Job]:
        count = extent.pairs[1] + 3
        starts = (i * extent.single % len(source) for i in range(count))
        return [Job([[line] for line in source[start : start + extent.single]], beams) for start in starts]

    with tqdm(total=len(extent.threads) * 4, desc="example", leave=False) as bar:
        for threads in extent.threads:
            workers = bench.workers(threads, [Job([source[:64]], 4), *one_by_one(1)[:1]])
            for beams in (1, 4):
                jobs = one_by_one(beams)
                found[threads, beams, 1] = bench.pairs(workers, jobs.__getitem__, [None])
                bar.update()
                whole = Job([source], beams)
                pairs = found[threads, beams, 0] = bench.pairs(workers, lambda _: whole, [None, 32, 128])  # noqa: B023
                bleu[beams] = [_bleu(texts, target) for texts in (pairs.our_texts, pairs.peer_texts) if texts]
                bar.update()
            for worker in itertools.chain(*workers):
                worker.stop()
    columns = {name: kind for name, kind in COLUMNS.items() if not name.startswith("%")}
    table = Table("(a) the example on test_2016_flickr, text to text, int8; 0 sentences: all in one call", columns)
    for (threads, beams, count), pairs in found.items():
        shown = spread(pairs.ratios) if pairs.ratios else None
        cells = [pairs.rate, pairs.peer_rate, shown, pairs.own_setting, pairs.peer_setting, len(pairs.ours)]
        table.rows.append([threads, beams, count, *cells])
    report.tables.append(table)
    quality = Table("BLEU on test_2016_flickr", {
        "beams": "d", "pyengine": ".2f", "CTranslate2": ".2f", "known of it": ".2f",
    })  # fmt: skip
    for beams, scores in bleu.items():
        quality.rows.append([beams, *scores, *[None] * (2 - len(scores)), known.BLEU[beams]])
    report.tables.append(quality)
    return found, bleu


def _bleu(texts: list[str], references: list[str]) -> float:
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(texts, [references]).score)


def measure_fresh(setups: list[Setup], name: str, report: Report, rounds: int) -> dict[str, dict[str, float]]:
    """Loading and memory of fresh processes, in turn; medians by engine."""
    texts, _ = models.read_pairs(models.EXAMPLE / "test_2016_flickr", 32)
    first, job = Job([texts[:1]], 1, 2), Job([texts], 4, WRITTEN)
    found: dict[str, list[dict[str, float]]] = {setup.engine: [] for setup in setups}
    program = Path(__file__).with_name("engines.py")
    for _ in range(rounds):
        for setup in setups:
            given = {"setup": asdict(setup), "first": asdict(first), "job": asdict(job)}
            command = [sys.executable, str(program), json.dumps(given, default=str)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[setup.engine].append(json.loads(done.stdout))
    medians = {
        engine: {key: median(run[key] for run in runs) for key in runs[0]} for engine, runs in found.items() if runs
    }
    columns = {"engine": "", "import, s": ".3f", "load to first token, s": ".3f", "peak, MB": ".0f"}
    table = Table(f"{name}: fresh processes; beam 4, one call of 32 sentences, {setups[0].threads} threads", columns)
    for engine, row in medians.items():
        table.rows.append([engine, row["import"], row["load"], row["peak"] / 1e6])
    report.tables.append(table)
    return medians


def converted(checkpoint: Path, work: Path) -> Path | None:
    """The checkpoint in CTranslate2's format, int8; None if it is not installed."""
    if not have_ctranslate2():
        return None
    from ctranslate2.converters import TransformersConverter

    path = work / f"{checkpoint.name}-ctranslate2"
    TransformersConverter(str(checkpoint)).convert(str(path), quantization="int8", force=True)
    return path


def mt(isa: str, extent: Extent, work: Path, part: str | None) -> Report:
    held = isa != _core.available_isas()[-1]
    report = Report("peers-mt-avx2" if held else "peers-mt", {**asdict(extent), "isa": isa})
    sources = {name: models.checkpoint(name, work) for name in (models.BASE_NAME, models.EXAMPLE_NAME)}
    ours = {name: models.directories(name, source, work)["int8"] for name, source in sources.items()}
    peers = {name: converted(source, work) for name, source in sources.items()}
    if not have_ctranslate2():
        report.notes.append("CTranslate2 (with transformers, for its converter) is not installed: no peer.")

    before = {
        threads: limits.measure(limits.CACHED, threads=threads, rounds=extent.rounds) for threads in extent.threads
    }
    ran: list[known.Found] = []

    def note(model: str, found: dict[Row, Pairs]) -> None:
        ran.extend(known.Found(model, *row, pairs.peer_rate) for row, pairs in found.items() if pairs.peer_rate)

    if part != "a":
        base = models.BASE_NAME
        bench = Bench(ours[base], peers[base], sources[base], isa, extent)
        found = measure_base(bench, open_directory(ours[base]).config, isa, before, extent, report)
        if held:
            judge_avx2(found, report)
            return report
        note("base", found)
        judge_base(found, report.tables[0], report)
        used = max(extent.threads)
        setups = bench.ours(used)[:1]
        # CTranslate2 as it ran beam 4 on the largest batch.
        setups += [pairs.setup for row, pairs in found.items() if row[0] == used and pairs.setup][-1:]
        setups = [replace(setup, tokenizer=sources[base]) for setup in setups]
        judge_fresh(measure_fresh(setups, "base", report, 1 if extent is QUICK else 5), report)
    if part != "b":
        example = models.EXAMPLE_NAME
        bench = Bench(ours[example], peers[example], sources[example], isa, extent)
        found, bleu = measure_example(bench, extent, report)
        note("example", found)
        judge_example(found, bleu, report)
    known.compare(ran, before, isa, report)
    return report


def add_options(made: argparse.ArgumentParser) -> None:
    models.add_options(made)
    made.add_argument("--isa", choices=_core.available_isas()[1:], default=_core.available_isas()[-1])
    made.add_argument("--part", choices=("a", "b"), help="one of the two models")
    made.add_argument("--quick", action="store_true", help="one setting, once: to see that it runs")


def run(options: argparse.Namespace) -> Report:
    return mt(options.isa, QUICK if options.quick else Extent(), options.work, options.part)

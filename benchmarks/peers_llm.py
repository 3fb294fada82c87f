"""Language models against llama.cpp and CTranslate2, on the same ids, in turn, each in a process of its own.

    python benchmarks/peers.py llm                         # all models
    python benchmarks/peers.py llm --model smollm2         # one of them, into a result of its own
    python benchmarks/peers.py llm --text FILE --tokens N  # perplexity of the first N tokens of a text

One peer is llama-cpp-python, built for the machine that it runs on, with its weights repacked and flash attention:

    CC=clang CXX=clang++ CMAKE_ARGS=-DGGML_NATIVE=ON pip install llama-cpp-python==0.3.36

The other is CTranslate2, as `pip install ".[bench]"` brings it, int8 against int8; it has no 4 bits on CPUs.
transformers reads the GGUF file, and CTranslate2's converter rounds that to int8 (language_models.py); its words are
ids, since no text goes in or out. Instruction set, and oneDNN or MKL, are those that it picks. It scores no more ids at
once than a sliding window holds, so that Gemma has no perplexity there. Nothing is asked of ratios to it. A peer that
is not installed is left out.

Models are SmolLM2 135M and Gemma 3 270M (tests/fetch_models.py) and a random one in the shape of TinyLlama, 1.1 billion
parameters. All engines start from one GGUF file: int8 against Q8_0, int4 in groups of 64 against Q4_0, whose groups
are of 32, of the largest against Q4_K_M, too, all rounded without a text to calibrate on. All have two threads;
llama.cpp, without OpenMP, begins its own with each token. Caches are as each engine has them unless it is told: int8
here, half floats in llama.cpp, float32 in CTranslate2.

All get random ids and write greedily, a fixed number of tokens. Of a call, time to its first token is that of the
prompt, the rest that of decoding: 64 tokens behind a prompt of 8, 32 behind one of 4,096. Sixteen sequences are prompts
of 8 in one call, or one batch a step, 32 tokens each; their rate counts new tokens over the whole call. The largest
model writes half as many. pyengine runs by `stream` and `generate`, its text included, llama.cpp by its low-level calls
without text, CTranslate2 by `generate_batch`. A ratio is the median over pairs of calls in turn, with the smallest and
the largest; before each call is a pause, in which the threads of the other engine, which go on waiting for a while in a
loop, have gone to sleep.

Limits are measured in the same run, with as many threads. Shares of them: for decoding, bytes of the weights that a
step reads (keys and values not counted) against the bandwidth over so many bytes, measured right before each call, for
what others on a machine leave of it changes from second to second; for prompts, operations of their
matrices (attention and output layer not counted) against the int8 peak of the best instruction set here. Fresh
processes load from a warm page cache and go on behind a prompt of 512; the cache has the bytes that pyengine says.
Perplexity is of the same windows of 1,024 ids, each behind a start token; by default of the example's short test set.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import language_models
import limits
import llm_verdicts
import models
import numpy as np
from engines import CTRANSLATE2, PYENGINE, Setup, Worker, have_ctranslate2
from language import LLAMA_CPP, TOKENIZER, Judging, Writing, fresh_command, have_llama_cpp, writer
from language_models import NAMES, RANDOM, Shape
from llm_verdicts import AT_ONCE, DECODE, DEEP, LONG, SHORT, Row
from report import Report, Table, spread
from tqdm import tqdm

from pyengine import _core
from pyengine.modelfile import ModelDirectory, open_directory
from pyengine.modelfile.layout import matrix_shapes
from pyengine.text import text_tokenizer_of

WINDOW = 1024


@dataclass(frozen=True)
class Pair:
    """Weights of pyengine, and a peer with its type of them: of llama.cpp, or CTranslate2, which has but int8."""

    weights: str
    peer: str | None = None
    kind: str = ""

    @property
    def types(self) -> str:
        return f"{self.weights} / {self.kind}" if self.kind else self.weights


LARGEST = Pair("int4", LLAMA_CPP, "Q4_K_M")
"""Of the 1.1B model only."""
PAIRS = (
    Pair("int8", LLAMA_CPP, "Q8_0"), Pair("int4", LLAMA_CPP, "Q4_0"), LARGEST,
    Pair("int8", CTRANSLATE2, "CTranslate2"),
)  # fmt: skip
PEERS = {LLAMA_CPP: ("llama-cpp-python", have_llama_cpp), CTRANSLATE2: ("CTranslate2", have_ctranslate2)}
"""How they are called, and whether they are installed."""


@dataclass(frozen=True)
class Extent:
    """What is measured: `pairs` of a row, and of the rows behind the longest prompt, at least; more in `seconds`."""

    models: tuple[str, ...] = NAMES
    threads: int = 2
    start: int = 8
    new: int = 64
    prompts: tuple[int, int] = (512, 4096)
    deep: int = 32
    sequences: int = 16
    together: int = 32
    pairs: int = 5
    long_pairs: int = 3
    most: int = 9
    pause: float = 0.2  # before a call
    seconds: float = 10.0
    rounds: int = 3  # of the limits, and of fresh processes
    shape: Shape = Shape()


LARGE = {"pairs": 3, "long_pairs": 1, "new": 32, "deep": 16, "together": 16}
"""Of the 1.1B model, which takes eight times as long."""
QUICK = Extent(
    models=(RANDOM,), threads=1, new=4, prompts=(24, 40), deep=4, sequences=3, together=4, pairs=1, long_pairs=1,
    most=1, rounds=1, shape=Shape(layers=2, width=256, heads=4, kv_heads=2, ffn_width=512, vocab=1000, positions=2048),
)  # fmt: skip


@dataclass
class Turns:
    """Seconds of both sides for the same tokens, a call at a time."""

    tokens: int
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)  # bytes a second right before each call, where it is measured

    @property
    def rate(self) -> float:
        return self.tokens / median(self.ours)

    def share(self, size: int) -> float:
        """Of the bandwidth, at so many bytes a token: call by call."""
        return median(size * self.tokens / own / read for own, read in zip(self.ours, self.reads, strict=True))

    @property
    def peer_rate(self) -> float | None:
        return self.tokens / median(self.peer) if self.peer else None

    @property
    def ratios(self) -> list[float]:
        """How many times as fast, pair by pair."""
        return [other / own for own, other in zip(self.ours, self.peer, strict=False)]


def step_bytes(directory: ModelDirectory) -> int:
    """Of the weights that a decoding step of a row reads: an embedding only where it is the output layer, too."""
    tied = "output.weight" not in directory.tensors
    return sum(
        tensor.nbytes for name, tensor in directory.tensors.items() if tied or not name.startswith("decoder.embed")
    )


def row_operations(directory: ModelDirectory) -> float:
    """Of the layers' matrices, for a token."""
    shapes = matrix_shapes(directory.config).items()
    return 2.0 * sum(n * k for name, (n, k) in shapes if name.startswith("decoder.layers"))


def take_turns(own: Worker, peer: Worker | None, vocab: int, extent: Extent, size: int) -> dict[str, Turns]:
    """Of every row, what was found; `size`: bytes that a step reads."""
    rng = np.random.default_rng(1)

    def writing(count: int, length: int, new: int) -> Writing:
        return Writing(rng.integers(min(300, vocab // 2), vocab - 1, (count, length)).tolist(), new)

    short, long = extent.prompts
    found = {
        DECODE: Turns(extent.new - 1), SHORT: Turns(short), LONG: Turns(long), DEEP: Turns(extent.deep - 1),
        AT_ONCE: Turns(extent.sequences * extent.together),
    }  # fmt: skip
    jobs: tuple[tuple[tuple[int, int, int], int, tuple[str | None, str | None]], ...] = (
        ((1, extent.start, extent.new), extent.pairs, (None, DECODE)),
        ((1, short, 1), extent.pairs, (SHORT, None)),
        ((extent.sequences, extent.start, extent.together), extent.pairs, (None, AT_ONCE)),
        ((1, long, extent.deep), extent.long_pairs, (LONG, DEEP)),
    )  # fmt: skip
    workers = [own, *([] if peer is None else [peer])]
    for shape, pairs, rows in tqdm(jobs, desc="rows", leave=False):
        for worker in workers:  # memory and threads, once
            worker.run(writing(*shape))
        begun = time.monotonic()
        for count in range(extent.most):
            if count >= pairs and time.monotonic() - begun > extent.seconds:
                break
            job = writing(*shape)
            if DECODE in rows:
                found[DECODE].reads.append(median(limits.compared(size, extent.threads, huge=True)))
            for worker in workers if count % 2 == 0 else workers[::-1]:
                time.sleep(extent.pause)
                done = worker.run(job)
                for row, seconds in zip(rows, (done.first, done.total - (done.first or 0)), strict=True):
                    if row is not None:
                        (found[row].ours if worker is own else found[row].peer).append(seconds)
    return found


def measure_fresh(setups: list[Setup], extent: Extent, vocab: int) -> dict[str, dict[str, Any]]:
    """Medians of fresh processes, in turn, by engine."""
    job = Writing([np.random.default_rng(2).integers(vocab // 3, vocab - 1, extent.prompts[0]).tolist()], 8)
    found: dict[str, list[dict[str, Any]]] = {setup.engine: [] for setup in setups}
    for setup in tqdm(setups * extent.rounds, desc="fresh processes", leave=False):
        done = subprocess.run(fresh_command(setup, job), check=True, capture_output=True, text=True)
        found[setup.engine].append(json.loads(done.stdout))
    return {
        engine: {key: None if runs[0][key] is None else median(run[key] for run in runs) for key in runs[0]}
        for engine, runs in found.items()
    }


def windows_of(directory: ModelDirectory, text: str, count: int) -> list[list[int]]:
    """The first `count` ids of a text in windows, each behind a start token."""
    tokenizer, generation = text_tokenizer_of(directory), directory.generation
    assert tokenizer is not None and generation is not None
    start = generation.bos_token_id if generation.decoder_start_token_id is None else generation.decoder_start_token_id
    assert start is not None
    ids = tokenizer.encode(text, special=False, split_special=True)[:count]
    return [[start, *ids[begin : begin + WINDOW]] for begin in range(0, len(ids), WINDOW)]


COLUMNS = {
    "types": "", "": "", "tok/s": ",.0f", "peer tok/s": ",.0f", "ratio": "", "% of bandwidth": ".0f",
    "% of int8 peak": ".0f", "pairs": "d",
}  # fmt: skip
FRESH = {
    "types": "", "engine": "", "file, MB": ",.0f", "import, s": ".2f", "load, s": ".3f", "first token, s": ".2f",
    "cache, MB": ".1f", "peak, MB": ",.0f",
}  # fmt: skip
JUDGED = {"types": "", "tokens": ",d", "pyengine": ".3f", "peer": ".3f", "ratio": ".4f"}


def size_of(path: Path) -> int:
    return models.directory_bytes(path) if path.is_dir() else path.stat().st_size


class Bench:
    """One model."""

    def __init__(self, name: str, options: argparse.Namespace, extent: Extent, report: Report) -> None:
        self._name, self._options, self._report = name, options, report
        self._extent = Extent(**{**vars(extent), **LARGE}) if name == RANDOM and extent is not QUICK else extent
        self._source = language_models.source(name, options, extent.shape)
        self._own = {
            weights: language_models.own_directory(self._source, weights, options.work, keep=name == RANDOM)
            for weights in ("int8", "int4")
        }
        self._directories = {weights: open_directory(path) for weights, path in self._own.items()}
        pairs = [each for each in PAIRS if PEERS[each.peer][1]() and (name == RANDOM or each != LARGEST)]
        compared = {each.weights for each in pairs}
        self.pairs = [*pairs, *(Pair(weights) for weights in self._own if weights not in compared)]

    def _peer(self, pair: Pair) -> Setup:
        """What runs its side of a pair, made if it is not there."""
        if pair.peer == CTRANSLATE2:
            path = language_models.ctranslate2_directory(self._source, self._options.work, half=self._name == RANDOM)
        else:
            path = language_models.peer_file(self._source, pair.kind, self._options.work, self._extent.threads)
        return Setup(pair.peer, path, self._extent.threads)

    def measure(self) -> None:
        """Adds tables and verdicts to the report."""
        extent, report = self._extent, self._report
        sizes = {weights: step_bytes(each) for weights, each in self._directories.items()}
        before = limits.measure(*sizes.values(), threads=extent.threads, rounds=extent.rounds)
        rows = Table(f"{self._name}: tokens a second, {extent.threads} threads; peer: llama.cpp, CTranslate2", COLUMNS)
        fresh = Table(f"{self._name}: fresh processes; a prompt of {extent.prompts[0]}, 8 tokens", FRESH)
        judged = Table(f"{self._name}: perplexity on the same ids", JUDGED)
        found: dict[Row, Turns] = {}
        loaded: dict[str, dict[str, dict[str, Any]]] = {}
        for pair in self.pairs:
            types, weights = pair.types, pair.weights
            own = Setup(PYENGINE, self._own[weights], extent.threads)
            setups, vocab = [own], self._directories[weights].config.target_side()[1]
            if pair.peer:
                setups.append(self._peer(pair))
            workers = [Worker(setup, writer) for setup in setups]
            turns = take_turns(workers[0], workers[1] if pair.peer else None, vocab, extent, sizes[weights])
            found |= {(types, row): each for row, each in turns.items()}
            if self._name != RANDOM or extent is QUICK:
                judged.rows.append([types, *self._perplexities(weights, workers)])
            for worker in workers:
                worker.stop()
            setups.append(Setup(TOKENIZER, self._own[weights], extent.threads))
            loaded[types] = measure_fresh(setups, extent, vocab)
            for setup in setups:
                each = loaded[types][setup.engine]
                cells = [each.get(key) for key in ("import", "load", "first")]
                size = None if setup.engine == TOKENIZER else size_of(setup.path) / 1e6
                cache = each.get("cache")
                mega = None if cache is None else cache / 1e6
                fresh.rows.append([types, setup.engine, size, *cells, mega, each["peak"] / 1e6])
        after = limits.measure(*sizes.values(), threads=extent.threads, rounds=extent.rounds)
        limit, isa = limits.best([before, after]), _core.available_isas()[-1]
        for (types, row), each in found.items():
            weights = types.partition(" ")[0]
            read = work = None
            if row == DECODE:
                read = 100 * each.share(sizes[weights])
            elif row in (SHORT, LONG) and limit.int8(isa):
                work = 100 * each.rate * row_operations(self._directories[weights]) / limit.int8(isa)
            shown = spread(each.ratios) if each.ratios else None
            rows.rows.append([types, row, each.rate, each.peer_rate, shown, read, work, len(each.ours)])
        report.tables.extend([rows, *([judged] if judged.rows else []), fresh])
        report.settings[f"{self._name}: limits"] = limit.figures
        report.settings[f"{self._name}: extent"] = asdict(extent)
        reads = [
            f"{median(each.reads) / 1e9:.1f} GB/s over {sizes[types.partition(' ')[0]] / 1e6:,.0f} MB"
            for (types, row), each in found.items() if row == DECODE
        ]  # fmt: skip
        peak = f"{limit.int8(isa) / 1e9:,.0f} GOPS of int8 on {isa}"
        most = ", ".join(f"{limit.read(size) / 1e9:.1f} GB/s" for size in sizes.values())
        found_reads = f"in turn with decoding (medians) {', '.join(reads)}, at most {most} before and behind"
        report.notes.append(f"{self._name}: limits with {extent.threads} threads: {found_reads}; {peak}.")
        llm_verdicts.judge_rows(self._name, rows, found, report)
        llm_verdicts.judge_fresh(self._name, loaded, {w: size_of(path) for w, path in self._own.items()}, report)

    def _perplexities(self, weights: str, workers: list[Worker]) -> list[Any]:
        options = self._options
        text = options.text or models.EXAMPLE / "test_2016_flickr.en"
        job = Judging(windows_of(self._directories[weights], text.read_text(encoding="utf-8"), options.tokens))
        own, *peers = [worker.run(job) for worker in workers]
        peer = ratio = None
        if peers and isinstance(peers[0], str):
            called, _ = PEERS[workers[1].setup.engine]
            self._report.notes.append(f"{self._name}: {called} gives no perplexity of these windows: {peers[0]}.")
        elif peers:
            peer, ratio = peers[0], own / peers[0]
        return [sum(len(window) - 1 for window in job.windows), own, peer, ratio]


def add_options(made: argparse.ArgumentParser) -> None:
    language_models.add_options(made)
    made.add_argument("--model", choices=NAMES, help="one of the models")
    made.add_argument("--text", type=Path, metavar="FILE", help="of which perplexity is (default: a short one)")
    made.add_argument("--tokens", type=int, metavar="N", default=4096, help="of the text (default: 4096)")
    made.add_argument("--quick", action="store_true", help="a small model, once: to see that it runs")


def run(options: argparse.Namespace) -> Report:
    extent = QUICK if options.quick else Extent()
    names = (options.model,) if options.model else extent.models
    name = f"peers-llm-{options.model}" if options.model else "peers-llm"
    text = None if options.text is None else options.text.name
    settings = {"models": names, "text": text, "tokens": options.tokens, "group": language_models.GROUP}
    report = Report(name, settings)
    options.work.mkdir(parents=True, exist_ok=True)
    missing = [called for called, installed in PEERS.values() if not installed()]
    report.notes.extend(f"{called} is not installed: it is left out." for called in missing)
    for each in names:
        Bench(each, options, extent, report).measure()
    return report

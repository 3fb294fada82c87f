"""A shortlist against the whole vocabulary: speed, BLEU, and how much of the references the lists cover.

    python benchmarks/shortlist.py --train PREFIX

A shortlist says which target ids a sentence may take, by its source ids (docs/search.md). PREFIX.de and PREFIX.en are
the training text that the example's is built from (`pyengine shortlist`, with its defaults). The example translates
test_2016_flickr. The random base-size model, whose vocabulary of 58,101 ids is what a shortlist is for, has a random
one of 16 candidates a source id and 1,000 frequent ids; it reads 31 ids that are drawn as words are, the n-th with a
probability of about 1/n, and writes exactly 32. Both sides run in one process and take turns (A B A B) on the same
sentences, which differ in every pair; ratios are by the time for a call, medians over the pairs with the smallest and
the largest. int8, all threads. Ids a call are those of the union of its sentences' lists: the rows of the output layer
that a step of all of them multiplies.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import models
import numpy as np
from report import Report, Table, Verdict, parser, publish, spread
from tqdm import tqdm

import pyengine
from pyengine.cpus import usable_cpus
from pyengine.modelfile import open_directory
from pyengine.shortlist import Shortlist
from pyengine.text import Tokenizer, tokenizer_of

READ, WRITTEN = 31, 32
CANDIDATES, FREQUENT = 16, 1000
"""Of a source id, and of every sentence, in the random shortlist: 1,500 ids a sentence in all."""
BLEU_BOUND = 0.3
TOOL = models.ROOT / "tools" / "shortlist.py"


@dataclass(frozen=True)
class Extent:
    """What is measured: (beams, sentences) of a call, `seconds` and at least `pairs` of each; `lines` of the set."""

    calls: tuple[tuple[int, int], ...] = ((1, 1), (1, 32), (4, 1), (4, 32))
    pairs: tuple[int, int] = (5, 25)
    seconds: float = 5.0
    lines: int | None = None
    base: bool = True


QUICK = Extent(calls=((1, 2),), pairs=(1, 1), lines=8, base=False)

Lists = Callable[[np.ndarray], np.ndarray]
COLUMNS = {
    "model": "", "beams": "d", "sentences": "d", "tok/s without": ",.0f", "tok/s with": ",.0f", "ratio": "",
    "ids a sentence": ",.0f", "ids a call": ",.0f", "pairs": "d",
}  # fmt: skip


class Sides:
    """One model twice: without a shortlist and with it."""

    def __init__(self, name: str, directory: Path, shortlist: Path) -> None:
        config = open_directory(directory).config
        self.name = name
        self.config = config
        self.engines = [pyengine.load(directory), pyengine.load(directory, shortlist=shortlist)]
        self.lists = Shortlist.open(shortlist, config.source_vocab, config.target_vocab).lists([0])

    def measure(
        self, job: Callable[[int], list[list[int]]], beams: int, length: dict[str, int], extent: Extent
    ) -> list[Any]:
        """A row of the table; `job(i)`: the i-th input."""
        times: tuple[list[float], list[float]] = ([], [])
        rates: tuple[list[float], list[float]] = ([], [])
        sizes: list[tuple[float, int]] = []
        begin, (least, most) = time.monotonic(), extent.pairs
        for number in itertools.count():
            counted = len(times[0])
            if counted >= most or (counted >= least and time.monotonic() - begin > extent.seconds):
                break
            sources = job(number)
            for engine, taken, rate in zip(self.engines, times, rates, strict=True):
                start = time.perf_counter()
                results = engine.translate(sources, num_beams=beams, **length)
                seconds = time.perf_counter() - start
                if number:  # the first is not counted: memory, threads
                    taken.append(seconds)
                    rate.append(sum(len(result.ids) + 1 for result in results) / seconds)
            lists = [self.lists(np.array(source)) for source in sources]
            sizes.append((float(np.mean([len(ids) for ids in lists])), len(np.unique(np.concatenate(lists)))))
        self.ratios = [other / own for other, own in zip(*times, strict=True)]
        means = [float(np.mean(values)) for values in zip(*sizes, strict=True)]
        return [
            self.name, beams, len(sources), *map(median, rates), spread(self.ratios), *means, len(self.ratios)
        ]  # fmt: skip


def build(directory: Path, train: Path, output: Path) -> None:
    command = [sys.executable, str(TOOL), str(directory), "-o", str(output), "--overwrite"]
    sides = ["--source", f"{train}.de", "--target", f"{train}.en"]
    subprocess.run([*command, *sides], check=True, stdout=subprocess.DEVNULL)


def write_random(output: Path, vocab: int) -> None:
    rng = np.random.default_rng(2)
    ids = np.sort(rng.integers(0, vocab - CANDIDATES, (vocab, CANDIDATES)), axis=1) + np.arange(CANDIDATES)
    offsets = np.arange(vocab + 1, dtype=np.int32) * np.int32(CANDIDATES)
    frequent = np.sort(rng.choice(vocab - 1, FREQUENT, replace=False) + 1).astype(np.int32)
    Shortlist(offsets, ids.ravel().astype(np.int32), frequent, vocab).write(output, overwrite=True)


def example_speed(sides: Sides, sources: list[list[int]], extent: Extent, report: Report) -> None:
    for beams, count in extent.calls:

        def job(number: int, count: int = count) -> list[list[int]]:
            return [sources[(number * count + i) % len(sources)] for i in range(count)]

        report.tables[0].rows.append(sides.measure(job, beams, {}, extent))


def base_speed(sides: Sides, extent: Extent, report: Report) -> None:
    vocab = sides.config.source_vocab
    weights = 1 / np.arange(1, vocab - 1)
    rng, slowest = np.random.default_rng(1), float("inf")
    shuffled = rng.permutation(np.arange(1, vocab - 1))
    for beams, count in tqdm(extent.calls, desc="base", leave=False):

        def job(number: int, count: int = count) -> list[list[int]]:
            drawn = rng.choice(shuffled, (count, READ - 1), p=weights / weights.sum())
            return [[*row, 0] for row in drawn.tolist()]

        length = {"min_new_tokens": WRITTEN, "max_new_tokens": WRITTEN}
        report.tables[0].rows.append(sides.measure(job, beams, length, extent))
        slowest = min(slowest, median(sides.ratios))
    found = f"at least {slowest:.2f} times as fast"
    report.verdicts.append(Verdict("base: faster with a shortlist, at every setting", found, slowest >= 1))


def quality(sides: Sides, tokenizer: Tokenizer, pairs: tuple[list[str], list[str]], report: Report) -> None:
    import sacrebleu

    columns = {"beams": "d", "without": ".2f", "with": ".2f", "difference": "+.2f", "same ids, %": ".1f"}
    table = Table("BLEU of the example, test_2016_flickr", columns)
    for beams in (1, 4):
        found = [engine.translate(pairs[0], num_beams=beams) for engine in sides.engines]
        scores = [sacrebleu.corpus_bleu([each.text for each in side], [pairs[1]]).score for side in found]
        same = float(np.mean([one.ids == other.ids for one, other in zip(*found, strict=True)]))
        table.rows.append([beams, *scores, scores[1] - scores[0], 100 * same])
    change = table.rows[-1][3]
    demand = f"beam 4: BLEU within {BLEU_BOUND} of that without a shortlist"
    report.verdicts.append(Verdict(demand, f"{change:+.2f}", abs(change) <= BLEU_BOUND))
    some = found[1][:20]
    alone = [sides.engines[1].translate(text, num_beams=4) for text in pairs[0][: len(some)]]
    equal = sum(one == other for one, other in zip(alone, some, strict=True))
    demand = "beam 4: the same results alone as with all others, scores to the bit"
    report.verdicts.append(Verdict(demand, f"{equal} of {len(some)}", equal == len(some)))

    lengths, covered, total, whole = [], 0, 0, 0
    for source, reference in zip(*pairs, strict=True):
        ids = sides.lists(np.array(tokenizer.encode_source(source)))
        wanted = tokenizer.encode_target(reference, end=True)
        on = int(np.isin(wanted, ids).sum())
        lengths.append(len(ids))
        covered, total, whole = covered + on, total + len(wanted), whole + (on == len(wanted))
    columns = {"vocabulary": ",d", "ids a list": ",.0f", "% of the vocabulary": ".1f",
               "% of reference tokens": ".2f", "% of whole references": ".1f"}  # fmt: skip
    share = 100 * float(np.mean(lengths)) / sides.config.target_vocab
    row = [sides.config.target_vocab, float(np.mean(lengths)), share, 100 * covered / total, 100 * whole / len(lengths)]
    report.tables.extend([table, Table("What the example's lists cover", columns, [row])])


def main() -> None:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--train", type=Path, metavar="PREFIX", help="of the training text: PREFIX.de and PREFIX.en")
    made.add_argument("--quick", action="store_true", help="a few sentences, which train it: to see that it runs")
    options = made.parse_args()
    if options.train is None and not options.quick:
        made.error("--train PREFIX is needed, or --quick")
    extent = QUICK if options.quick else Extent()
    stem = models.EXAMPLE / "test_2016_flickr"
    pairs = models.read_pairs(stem, extent.lines)

    settings = {**asdict(extent), "threads": usable_cpus(), "base_tokens": {"read": READ, "written": WRITTEN}}
    report = Report("shortlist", settings, [Table("Tokens a second, int8", COLUMNS)])
    directory = models.directories(models.EXAMPLE_NAME, models.EXAMPLE, options.work)["int8"]
    build(directory, options.train or stem, options.work / "example.shortlist")
    example = Sides(models.EXAMPLE_NAME, directory, options.work / "example.shortlist")
    tokenizer = tokenizer_of(open_directory(directory))
    assert tokenizer is not None
    example_speed(example, [list(tokenizer.encode_source(text)) for text in pairs[0]], extent, report)
    quality(example, tokenizer, pairs, report)
    if extent.base:
        checkpoint = models.checkpoint(models.BASE_NAME, options.work)
        directory = models.directories(models.BASE_NAME, checkpoint, options.work)["int8"]
        shortlist = options.work / "base.shortlist"
        write_random(shortlist, open_directory(directory).config.target_vocab)
        base_speed(Sides(models.BASE_NAME, directory, shortlist), extent, report)
    publish(report, options)


if __name__ == "__main__":
    main()

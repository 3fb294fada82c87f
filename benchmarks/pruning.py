"""What pruning costs and gains: BLEU, KL divergence and speed of the example with fewer neurons, heads and layers.

    python benchmarks/pruning.py --data DIR

A quarter of the neurons and a fifth of the heads of the example are removed (docs/pruning.md). DIR holds train of
Multi30k (train.de and train.en), whose first 1,000 pairs are calibrated on; figures are of test_2016_flickr, in
`examples/`. All models compute in int8; the KL divergence of a token is that of the next-token distributions at its
place in the reference, the float32 model that nothing was removed from against the other. Speed is that of batches of
32 that write exactly 16 tokens, whole and pruned by turns, each in a process of its own. The ceiling is what the
speed-up would be if time were multiply-adds with weights, output layer included, at these lengths. Other ways are made
by `convert`: layers removed, and zeros in single weights, N:M and blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import models
import numpy as np
from engines import PYENGINE, Job, Setup, Worker
from quality import bleu
from report import Report, Table, Verdict, parser, publish, spread
from speed import example_sources
from tqdm import tqdm

import pyengine
from pyengine.canonical import CanonicalModel, ModelConfig, tensor_specs
from pyengine.importers import open_checkpoint
from pyengine.modelfile import packed_specs, write_directory
from pyengine.modelfile.layout import pack_values
from pyengine.quantize import Calibration, convert
from pyengine.quantize.measuring.divergence import divergence
from pyengine.quantize.measuring.reading import Reader
from pyengine.quantize.prune.masks import Blocks, NOfM, RowShare
from pyengine.quantize.prune.model import Removed, prune_model
from pyengine.quantize.rounding.rounding import pack_parts, round_parts
from pyengine.text import tokenizer_of

SHARES = {"ffn": 0.25, "heads": 0.2}
WHOLE, PLAIN, FITTED = "whole", "removed", "removed and fitted"
# name -> arguments of convert; all but the smallest weights are chosen with the text.
OTHERS: dict[str, dict[str, Any]] = {
    "one of four encoder layers removed": {"prune": {"encoder_layers": 0.25}},
    "one of two decoder layers removed": {"prune": {"decoder_layers": 0.5}},
    "blocks 30 %": {"sparse": Blocks(0.3)},
    "blocks 50 %": {"sparse": Blocks(0.5)},
    "blocks 50 %, smallest": {"sparse": Blocks(0.5), "sparse_method": "magnitude"},
    "weights 50 %": {"sparse": RowShare(0.5)},
    "2:4": {"sparse": NOfM(2, 4)},
}
TIMED = ("one of four encoder layers removed", "blocks 30 %", "blocks 50 %", "2:4")
BEAMS = (1, 4)
BATCH, LENGTH = 32, 16
BLEU_BOUND = 1.0
KL_SHARE = 0.5
GAIN_SHARE = 0.7


@dataclass(frozen=True)
class Extent:
    """What is measured: `lines` to calibrate on, `sentences` of the set (None: all) and to time, pairs of rounds."""

    lines: int = 1_000
    sentences: int | None = None
    timed: int = 992
    rounds: int = 15
    others: tuple[str, ...] = tuple(OTHERS)


QUICK = Extent(
    lines=120,
    sentences=4,
    timed=BATCH,
    rounds=1,
    others=("one of four encoder layers removed", "blocks 50 %, smallest"),
)


def write(model: CanonicalModel, path: Path) -> Path:
    """An int8 directory of the model."""

    def packed() -> Iterator[tuple[str, np.ndarray]]:
        for name, spec in packed_specs(model.config, "int8").items():
            parts = [model.tensors[source].read() for source in spec.sources]
            if spec.kind in ("vector", "table"):
                yield name, pack_values(parts, spec.form)
            elif spec.kind == "weight":
                stored = pack_parts(round_parts(parts, "int8"), form=spec.form)
                yield from ((f"{name.removesuffix('.weight')}.{part}", array) for part, array in stored.items())

    write_directory(
        path, config=model.config, weights="int8", generation=model.generation, tensors=packed(),
        tokenizer=model.tokenizer_kind, tokenizer_files=model.tokenizer_files, created_by="benchmarks", overwrite=True,
    )  # fmt: skip
    return path


def prune(text: list[tuple[str, str]], work: Path) -> tuple[dict[str, Path], dict[str, ModelConfig], list[Removed]]:
    """The directories and configurations of the models compared, and what was removed."""
    model = open_checkpoint(models.EXAMPLE)
    tokenizer = tokenizer_of(model)
    made, rows = {WHOLE: model}, []
    for name, fit in ((PLAIN, False), (FITTED, True)):
        pruned = prune_model(model, tokenizer, text, reconstruct=fit, **SHARES)
        made[name], rows = pruned.model, pruned.removed
    paths = {name: write(each, work / f"pruning-{name.replace(' ', '-')}") for name, each in made.items()}
    return paths, {name: each.config for name, each in made.items()}, rows


def others(names: tuple[str, ...], text: list[tuple[str, str]], work: Path) -> dict[str, Path]:
    """The directories of some of OTHERS."""
    paths = {}
    for number, name in enumerate(tqdm(names, desc="other ways", leave=False)):
        way = OTHERS[name]
        paths[name] = work / f"pruning-other-{number}"
        calibration = None if way.get("sparse_method") == "magnitude" else Calibration(text, "absmax")
        convert(models.EXAMPLE, paths[name], calibration=calibration, overwrite=True, **way)
    return paths


def removed_table(rows: list[Removed]) -> Table:
    table = Table(
        "What was removed, and the share of the variance of the layer's outputs that is lost",
        {"layer": "", "what": "", "removed": "d", "of": "d", "removed alone": ".4f", "fitted": ".4f"},
    )
    for row in rows:
        table.rows.append([row.layer, row.what, row.removed, row.total, row.error_before, row.error_after])
    return table


def quality_table(paths: dict[str, Path], exact: Path, limit: int | None, threads: int, report: Report) -> Table:
    pairs = models.read_pairs(models.EXAMPLE / "test_2016_flickr", limit)
    table = Table(
        "int8, test_2016_flickr: BLEU with beam 4, KL divergence a token to the whole float32 model",
        {"model": "", "bytes": ",d", "BLEU": ".2f", "KL": ".5f", "top 1": ".4f"},
    )
    found = {}
    reference = Reader.open(exact, threads=threads)
    for name, path in paths.items():
        engine = pyengine.load(path, threads=threads)
        moved = divergence(reference, Reader.open(path, threads=threads), list(zip(*pairs, strict=True)))
        found[name] = (bleu(engine, pairs, 4, name), moved.kl)
        table.rows.append([name, models.directory_bytes(path), *found[name], moved.top1])
    change = found[FITTED][0] - found[WHOLE][0]
    demand = f"removed and fitted: BLEU within {BLEU_BOUND} of the whole model"
    report.verdicts.append(Verdict(demand, f"{change:+.2f}", change >= -BLEU_BOUND))
    share = found[FITTED][1] / found[PLAIN][1]
    demand = "KL divergence at most half of what removing alone gives"
    report.verdicts.append(Verdict(demand, f"{share:.2f}", share <= KL_SHARE))
    return table


def multiply_adds(config: ModelConfig, read: float, written: float) -> float:
    """With weights, for a sentence of ``read`` tokens of which ``written`` are made, of all beams together."""
    total = 0.0
    for name, spec in tensor_specs(config).items():
        output = name == ("decoder.embed.weight" if config.tie_output else "output.weight")
        if spec.kind == "linear" or output:
            reads_source = name.startswith("encoder.") or ".cross_attention.k." in name or ".cross_attention.v." in name
            total += float(np.prod(spec.shape)) * (read if reads_source else written)
    return total


def speed_table(paths: dict[str, Path], configs: dict[str, ModelConfig], extent: Extent, report: Report) -> Table:
    sources = example_sources(paths[WHOLE], extent.timed)
    batches = [sources[start : start + BATCH] for start in range(0, len(sources), BATCH)]
    read = float(np.mean([len(source) for source in sources]))
    table = Table(
        f"Times as fast as the whole model, int8, batch {BATCH}, one thread: median (smallest-largest) of pairs",
        {"beams": "d", "whole s/s": ".1f", "pruned s/s": ".1f", "speed-up": "", "ceiling": ".3f", "share": ".2f"},
    )
    workers = {name: Worker(Setup(PYENGINE, paths[name], 1)) for name in (WHOLE, FITTED)}
    for beams in BEAMS:
        job = Job(batches, beams, LENGTH)
        times: dict[str, list[float]] = {name: [] for name in workers}
        for worker in workers.values():  # memory and threads, once
            worker.run(Job(batches[:1], beams, LENGTH))
        for _ in tqdm(range(extent.rounds), desc=f"speed, beams {beams}", leave=False):
            for name, worker in workers.items():
                times[name].append(worker.run(job).seconds)
        ratios = [whole / pruned for whole, pruned in zip(times[WHOLE], times[FITTED], strict=True)]
        whole, pruned = (multiply_adds(configs[name], read, beams * LENGTH) for name in workers)
        share = (median(ratios) - 1) / (whole / pruned - 1)
        rates = [len(sources) / median(times[name]) for name in workers]
        table.rows.append([beams, *rates, spread(ratios), whole / pruned, share])
        demand = f"beams {beams}: at least {GAIN_SHARE:.0%} of the ceiling's gain"
        report.verdicts.append(Verdict(demand, f"{share:.0%}", share >= GAIN_SHARE))
    for worker in workers.values():
        worker.stop()
    return table


def others_table(paths: dict[str, Path], extent: Extent) -> Table:
    """Each of TIMED beside the whole model: one sentence at a time, and batches."""
    sources = example_sources(paths[WHOLE], extent.timed)
    table = Table(
        "Other ways, times as fast as the whole model, int8, one thread: median (smallest-largest) of pairs",
        {"model": "", "beams": "d", "sentences": "d", "speed-up": ""},
    )
    whole = Worker(Setup(PYENGINE, paths[WHOLE], 1))
    for name in (name for name in TIMED if name in paths):
        other = Worker(Setup(PYENGINE, paths[name], 1))
        for beams, batch in ((1, 1), (1, BATCH), (4, BATCH)):
            used = sources if batch > 1 else sources[: len(sources) // 4]
            job = Job([used[start : start + batch] for start in range(0, len(used), batch)], beams, LENGTH)
            for worker in (whole, other):
                worker.run(Job(job.batches[:1], beams, LENGTH))
            pairs = [(whole.run(job).seconds, other.run(job).seconds) for _ in range(max(1, extent.rounds // 3))]
            table.rows.append([name, beams, batch, spread([a / b for a, b in pairs])])
        other.stop()
    whole.stop()
    return table


def options() -> argparse.Namespace:
    made = parser(__doc__)
    models.add_options(made)
    made.add_argument("--data", type=Path, metavar="DIR", help="where train.de and train.en lie; not with --quick")
    made.add_argument("--threads", type=int, default=2, help="for translations (default: %(default)s)")
    made.add_argument("--quick", action="store_true", help="a few sentences, calibrated on the test set: to see it run")
    chosen = made.parse_args()
    if not chosen.quick and chosen.data is None:
        made.error("--data DIR is needed, but for --quick")
    return chosen


def main() -> None:
    chosen = options()
    extent = QUICK if chosen.quick else Extent()
    stem = models.EXAMPLE / "test_2016_flickr" if chosen.quick else chosen.data / "train"
    text = list(zip(*models.read_pairs(stem, extent.lines), strict=True))
    report = Report("pruning", {**asdict(extent), **SHARES, "batch": BATCH, "written": LENGTH})
    exact = models.directories(models.EXAMPLE_NAME, models.EXAMPLE, chosen.work)["float32"]
    paths, configs, rows = prune(text, chosen.work)
    every = {**paths, **others(extent.others, text, chosen.work)}
    report.tables.append(removed_table(rows))
    report.tables.append(quality_table(every, exact, extent.sentences, chosen.threads, report))
    report.tables.append(speed_table(paths, configs, extent, report))
    report.tables.append(others_table(every, extent))
    publish(report, chosen)


if __name__ == "__main__":
    main()

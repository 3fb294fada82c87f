"""bfloat16 and float16 weights against float32: decoding one text, and products of one row and of many.

    python benchmarks/halves.py

All of it is computed in float32. Decoding: greedy, one text at a time, of SmolLM2 135M (a prompt of 8 random ids, 48
written) and of the random base-size translation model (16 ids read, 48 written), in float32, bfloat16 and float16 in
turn. The float32 directory has the weights of the bfloat16 one, so that these two must write the same ids. Products,
one thread: a row over matrices that are walked in turn, more of them than the caches hold; many rows over one matrix in
the cache.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import language_models
import models
import numpy as np
from base_model import BASE
from language_models import RANDOM, SMOLLM2, Shape
from products import in_huge_pages
from report import Report, Table, Verdict, parser, publish, spread
from tqdm import tqdm

import pyengine
from pyengine import _core
from pyengine.quantize import convert

KINDS = ("float32", "bfloat16", "float16")
HALVES = KINDS[1:]
# Kernel, type, and what 1 is in it.
PRODUCTS: dict[str, tuple[str, type, float]] = {
    "float32": ("gemm_f32", np.float32, 1.0),
    "bfloat16": ("gemm_bf16", np.uint16, 0x3F80),
    "float16": ("gemm_f16", np.float16, 1.0),
}
DECODING, MANY_ROWS = 1.7, 0.98


@dataclass(frozen=True)
class Extent:
    """What is measured. `weights`: bytes in float32 that one row walks over; `seconds` a product."""

    language: str = SMOLLM2
    shape: Shape = Shape()
    translation: str = models.BASE_NAME
    threads: tuple[int, ...] = (1, 2)
    new: int = 48
    rounds: int = 7
    shapes: tuple[tuple[int, int], ...] = ((512, 2048), (2048, 512), (1024, 4096))
    many: tuple[int, ...] = (8, 24, 96, 192)
    weights: int = 1 << 28
    seconds: float = 0.3


QUICK = Extent(
    language=RANDOM, shape=Shape(layers=2, width=256, heads=4, kv_heads=2, ffn_width=512, vocab=1000, positions=512),
    translation=models.EXAMPLE_NAME, threads=(1,), new=8, rounds=1, shapes=((256, 256),), many=(24,), weights=1 << 20,
    seconds=0.01,
)  # fmt: skip


def directories(source: Path, work: Path) -> dict[str, Path]:
    """A model directory of each kind; float32 of what bfloat16 makes of the weights."""
    made = {}
    for kind in ("bfloat16", "float16", "float32"):
        made[kind] = work / f"{source.stem}-{kind}"
        convert(made["bfloat16"] if kind == "float32" else source, made[kind], weights=kind, overwrite=True)
    return made


def writing(path: Path, threads: int, extent: Extent) -> Callable[[], Any]:
    """What writes one text: its ids."""
    model = pyengine.load(path, threads=threads)
    exact = {"num_beams": 1, "min_new_tokens": extent.new, "max_new_tokens": extent.new}
    ids = np.random.default_rng(1).integers(300, 900, 16).tolist()
    if isinstance(model, pyengine.Generator):
        return lambda: model.generate(ids[:8], **exact).ids
    assert isinstance(model, pyengine.Translator)
    return lambda: model.translate([*ids, 0], **exact).ids


def decode(name: str, made: dict[str, Path], extent: Extent, report: Report) -> None:
    columns = {"model": "", "threads": "d", **{f"{kind}, tok/s": ".1f" for kind in KINDS}}
    columns |= {f"{kind} by float32": "" for kind in HALVES} | {"same ids": ""}
    table = Table(f"{name}: decoding one text, medians of {extent.rounds} rounds", columns)
    for threads in extent.threads:
        write = {kind: writing(made[kind], threads, extent) for kind in KINDS}
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        ids = {kind: run() for kind, run in write.items()}  # and memory, once
        for _, kind in tqdm(list(itertools.product(range(extent.rounds), KINDS)), desc=name, leave=False):
            start = time.perf_counter()
            write[kind]()
            times[kind].append(time.perf_counter() - start)
        rates = [extent.new / median(times[kind]) for kind in KINDS]
        ratios = {kind: [a / b for a, b in zip(times["float32"], times[kind], strict=True)] for kind in HALVES}
        same = ids["bfloat16"] == ids["float32"]
        table.rows.append([name, threads, *rates, *map(spread, ratios.values()), "yes" if same else "NO"])
        where = f"{name}, threads {threads}"
        for kind, values in ratios.items():
            found = median(values)
            demand = f"{where}: {kind} at least {DECODING} times float32"
            report.verdicts.append(Verdict(demand, f"{found:.2f}", found >= DECODING))
        shown = "the same" if same else "others"
        report.verdicts.append(Verdict(f"{where}: float32's ids of the same rounded weights", shown, same))
    report.tables.append(table)


def seconds_of(isa: str, k: int, n: int, rows: int, copies: int, seconds: float) -> dict[str, float]:
    """Of one product, by kind: the best of runs that take turns."""
    kernels, runs = _core.Kernels(isa), {}
    x, y, bias = np.ones((rows, k), np.float32), np.empty((rows, n), np.float32), np.ones(n, np.float32)
    for kind, (name, dtype, one) in PRODUCTS.items():
        walked = in_huge_pages(np.full((n // 16, k, 16), one, dtype), copies)
        product = getattr(kernels, name)
        repeat = max(copies, int(seconds / 10 * 1e11 / (2 * rows * k * n)))
        runs[kind] = lambda product=product, w=walked, repeat=repeat: product(x, w, y, bias, repeat=repeat), repeat
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    while len(times["float32"]) < 5 or sum(map(sum, times.values())) < seconds:
        for kind, (run, _) in runs.items():
            start = time.perf_counter()
            run()
            times[kind].append(time.perf_counter() - start)
    return {kind: min(found) / runs[kind][1] for kind, found in times.items()}


def products(extent: Extent, report: Report) -> None:
    columns = {"isa": "", "K x N": "", "rows": "d", "float32 weights, MB": ".1f", "float32, us": ".1f"}
    table = Table("Products, one thread", columns | {f"{kind} by float32": ".2f" for kind in HALVES})
    worst: dict[str, float] = {}
    isas = [isa for isa in _core.available_isas() if isa != "ref"] or ["ref"]
    for isa, (k, n), rows in itertools.product(isas, extent.shapes, (1, *extent.many)):
        copies = max(1, extent.weights // (4 * k * n)) if rows == 1 else 1
        found = seconds_of(isa, k, n, rows, copies, extent.seconds)
        ratios = [found["float32"] / found[kind] for kind in HALVES]
        size = copies * 4 * k * n / 1e6
        table.rows.append([isa, f"{k} x {n}", rows, size, 1e6 * found["float32"], *ratios])
        if rows > 1:
            worst[isa] = min(worst.get(isa, np.inf), *ratios)
    report.tables.append(table)
    for isa, ratio in worst.items():
        demand = f"{isa}, {min(extent.many)} rows and more in the cache: not slower than {MANY_ROWS} of float32"
        report.verdicts.append(Verdict(demand, f"at least {ratio:.2f}", ratio >= MANY_ROWS))


def main() -> None:
    made = parser(__doc__)
    language_models.add_options(made)
    made.add_argument("--quick", action="store_true", help="small models, once: to see that it runs")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    options.work.mkdir(parents=True, exist_ok=True)
    report = Report("halves", {**asdict(extent), "base": asdict(BASE)})
    language = language_models.source(extent.language, options, extent.shape)
    translation = models.checkpoint(extent.translation, options.work)
    for name, source in ((extent.language, language), (extent.translation, translation)):
        decode(name, directories(source, options.work), extent, report)
    products(extent, report)
    publish(report, options)


if __name__ == "__main__":
    main()

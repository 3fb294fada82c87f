"""The kernels of each instruction set, as a share of what this machine can do in the same run.

    python benchmarks/kernels.py [--only gemm|rows|int4|sparse|logits|barriers|float32|attention|tiles|rowwise]

A *kernel* is the innermost function of the core for one job, written once for each instruction set (`isa`). What bounds
it is either arithmetic, the operations a second that the machine can do at most (GOPS), or reading, the bytes a second
that come out of caches and memory (GB/s). The input is quantized already, the epilogue (scales, bias, activation) is
included. The best of many short runs counts.

`gemm`: a layer of many rows, K values in and N out, against the int8 peak. `rows`: a few rows over matrices of 512 x
2,048 that are walked in turn, in huge pages, against the bandwidth of a buffer of that size; one thread. `int4`:
weights in groups, with and without zero points, a few rows as in `rows`, and many against int8 weights in turn.
`sparse`: products without the lines of zeros against int8 products with them, in turn; random lines, one thread; and
from which share of zeros on they are as fast. `logits`: the last product fused with its normalizer and the best 5 ids,
against the product alone. `barriers`: the places in a decoder step where threads wait for one another. `float32`:
products in float32, one thread. `attention`: a row of 8 heads of 64 dimensions over keys and values in the cache.
`tiles`: 16 rows of a prompt over 2,048 keys, together and each with every query head by a call of its own, in turn.
`rowwise`: layer normalisation and quantization of a row; it and `attention` against the bandwidth of 1 MB.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import limits
import numpy as np
from products import Int4Product, Pair, Product
from report import Report, Table, Verdict, parser, publish

from pyengine import _core
from pyengine.cpus import usable_cpus

TABLES = ("gemm", "rows", "int4", "sparse", "logits", "barriers", "float32", "attention", "tiles", "rowwise")
KINDS = ("int8", "float32")
TILE_ROWS, LAYERS = 16, 12
STEP_BARRIERS = 6 * 8 + 4
"""Of a decoder step of the base-size model with few rows: eight a layer, embedding, rows asked for, logits."""
GAINS = {0.5: 1.8, 0.25: 3.2}
"""By the share of lines that are not zero: how much faster than the dense product the sparse one must be."""
ZEROS = (0.0, 0.1, 0.2, 0.3)
"""Shares of lines between which sparse products become as fast as dense ones."""


@dataclass(frozen=True)
class Extent:
    """What is measured. `shapes`: K x N of `gemm`; `buffers`: bytes of weights of `rows`; `seconds` a figure."""

    shapes: tuple[tuple[int, int], ...] = ((512, 2048), (2048, 512), (1024, 4096), (4096, 4096))
    many: tuple[int, ...] = (96, 192, 384)
    few: tuple[int, ...] = (1, 2, 4, 8)
    buffers: tuple[int, ...] = (limits.CACHED, limits.MEMORY)
    widths: tuple[int, ...] = (256, 512, 1024)
    vocabularies: tuple[int, ...] = (32_000, 58_101, 150_000)
    asked: tuple[int, ...] = (1, 8, 32, 128)
    keys: tuple[int, ...] = (32, 256, 2048)
    values: tuple[int, ...] = (512, 2048)
    seconds: float = 0.5


QUICK = Extent(
    shapes=((512, 2048),), many=(96,), buffers=(limits.CACHED,), widths=(256,), vocabularies=(2_000,), asked=(4,),
    keys=(32,), values=(512,), seconds=0.02,
)  # fmt: skip


def layer(kernels: _core.Kernels, k: int, n: int) -> _core.Layer:
    blocks = -(-n // 16)
    w = np.random.default_rng(1).integers(-127, 128, (blocks, k // 4, 16, 4), np.int8)
    return _core.Layer(kernels, w, np.full(blocks * 16, 1e-4, np.float32), np.ones(blocks * 16, np.float32))


def give(made: _core.Layer, rows: int, k: int) -> None:
    made.read(np.random.default_rng(2).integers(-127, 128, (rows, k), np.int8), np.full(rows, 0.01, np.float32))


def best(run: Callable[[int], object], repeat: int, seconds: float) -> float:
    """Seconds of one of `repeat` in a run, in the best of the runs that fit into `seconds`; at least five."""
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        run(repeat)
        times.append(time.perf_counter() - start)
    return min(times) / repeat


def gemm(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "threads": "d", "K x N": "", "rows": "d", "GOPS": ".0f", "% of the int8 peak": ".0f"}
    table = Table("int8 layers of many rows", columns)
    for isa, every in itertools.product(isas, (False, True)):
        threads = usable_cpus() if every else 1
        crews = _core.Crews(threads)
        peak, shares = peaks.int8(isa, every=every), []
        for k, n in extent.shapes:
            made = layer(_core.Kernels(isa), k, n)
            for count in extent.many:
                give(made, count, k)
                y, operations = np.empty((count, n), np.float32), 2 * count * k * n

                def run(repeat: int) -> None:
                    made.linear(y, crews, repeat)  # noqa: B023

                rate = operations / best(run, max(1, 2 * 10**9 // operations), extent.seconds)
                shares.append(100 * rate / peak if peak else None)
                table.rows.append([isa, threads, f"{k} x {n}", count, rate / 1e9, shares[-1]])
        if isa == isas[-1] and peak:
            demand = f"{isa}, {threads} threads: {min(extent.many)} rows and more at 90 % of the int8 peak"
            report.verdicts.append(Verdict(demand, f"at least {min(shares):.0f} %", min(shares) >= 90))
    report.tables.append(table)


def logits(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "K": "d", "vocabulary": ",d", "rows": "d"}
    columns |= {"product, us": ".0f", "fused, us": ".0f", "ratio": ".2f"}
    threads = usable_cpus()
    crews = _core.Crews(threads)
    table = Table(f"Logits, normalizer and 5 candidates a row, {threads} threads", columns)
    worst: dict[int, float] = {}
    for isa, k, n in itertools.product(isas, extent.widths, extent.vocabularies):
        made = layer(_core.Kernels(isa), k, n)
        for count in extent.asked:
            give(made, count, k)
            y = np.empty((count, -(-n // 16) * 16), np.float32)

            def product(repeat: int) -> None:
                made.linear(y, crews, repeat)  # noqa: B023

            def fused(repeat: int) -> None:
                made.logits(5, crews, repeat)  # noqa: B023

            repeat = max(1, 10**9 // (count * k * n))
            # In turn, so that both meet the same neighbours.
            pairs = [[best(run, repeat, extent.seconds / 10) for run in (product, fused)] for _ in range(3)]
            bare, whole = (min(times) for times in zip(*pairs, strict=True))
            table.rows.append([isa, k, n, count, bare * 1e6, whole * 1e6, whole / bare])
            if isa == isas[-1] and count >= 32:
                most = 1.4 if k < 512 else 1.25
                worst[most] = max(worst.get(most, 0.0), whole / bare)
    report.tables.append(table)
    for most, ratio in worst.items():
        width = "K = 256" if most == 1.4 else "K = 512 and more"
        demand = f"fused logits, {width}, 32 rows and more: at most {most} times the product"
        report.verdicts.append(Verdict(demand, f"at most {ratio:.2f}", ratio <= most))


def barriers(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    table = Table("Barriers of a decoder step of base size", {"threads": "d", "barriers": "d", "us": ".0f"})
    for threads in sorted({1, usable_cpus()}):
        crews = _core.Crews(threads)

        def run(repeat: int) -> None:
            _core.barriers(crews, repeat * STEP_BARRIERS)  # noqa: B023

        seconds = best(run, 20, extent.seconds)
        table.rows.append([threads, STEP_BARRIERS, seconds * 1e6])
    report.tables.append(table)
    demand = f"barriers of a decoder step, {threads} threads: under 0.15 ms"
    report.verdicts.append(Verdict(demand, f"{seconds * 1e3:.3f} ms", seconds < 0.15e-3))


def rows(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "weights, MB": ".0f", "rows": "d", "GB/s": ".1f", "% of the bandwidth": ".0f",
               "time of one row": ".2f"}  # fmt: skip
    table = Table("int8 products of few rows over matrices of 512 x 2,048 in turn, one thread", columns)
    for isa in isas:
        for buffer in extent.buffers:
            k, n = 512, 2048
            copies = buffer // (k * n)
            product, limit = Product(_core.Kernels(isa), 1, k, n, copies), peaks.read(buffer, every=False, huge=True)
            times: dict[int, list[float]] = {count: [] for count in extent.few}
            deadline = time.perf_counter() + extent.seconds * len(times)
            while len(times[1]) < 3 or time.perf_counter() < deadline:
                for count, found in times.items():
                    product.rows(count)
                    found.append(product.seconds(copies) / copies)
            best = {count: min(found) for count, found in times.items()}
            for count, seconds in best.items():
                rate = k * n / seconds
                table.rows.append([isa, buffer / 1e6, count, rate / 1e9, 100 * rate / limit, seconds / best[1]])
            if isa != isas[-1]:
                continue
            share = 100 * k * n / best[1] / limit
            place = f"{isa}, {buffer / 1e6:.0f} MB"
            report.verdicts.append(
                Verdict(f"{place}: one row at 85 % of the bandwidth", f"{share:.0f} %", share >= 85)
            )
            for count, most in ((4, 1.1), (8, 1.4)):
                ratio = best[count] / best[1]
                demand = f"{place}: {count} rows at most {most} times the time of one"
                report.verdicts.append(Verdict(demand, f"{ratio:.2f}", ratio <= most))
    report.tables.append(table)


def int4(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    kinds = tuple(itertools.product((32, 64, 128), (False, True)))
    columns = {"isa": "", "group": "d", "zero points": "", "weights, MB": ".0f", "rows": "d", "GB/s": ".1f",
               "% of the bandwidth": ".0f", "time of one row": ".2f"}  # fmt: skip
    few = Table("int4 products of few rows over matrices of 512 x 2,048 in turn, one thread", columns)
    for isa, buffer in itertools.product(isas, extent.buffers):
        limit, least = peaks.read(buffer, every=False, huge=True), 100.0
        for group, zero_points in kinds:
            product = Int4Product(_core.Kernels(isa), 1, 512, 2048, group, zero_points, buffer)
            times: dict[int, list[float]] = {count: [] for count in extent.few}
            deadline = time.perf_counter() + extent.seconds * len(times)
            while len(times[1]) < 3 or time.perf_counter() < deadline:
                for count, found in times.items():
                    product.rows(count)
                    found.append(product.seconds(product.copies) / product.copies)
            for count, found in times.items():
                rate = product.size / min(found)
                cells = [rate / 1e9, 100 * rate / limit, min(found) / min(times[1])]
                few.rows.append([isa, group, "yes" if zero_points else "no", buffer / 1e6, count, *cells])
            least = min(least, 100 * product.size / min(times[1]) / limit)
        if isa == isas[-1]:
            demand = f"{isa}, int4, {buffer / 1e6:.0f} MB: one row at 80 % of the bandwidth"
            report.verdicts.append(Verdict(demand, f"at least {least:.0f} %", least >= 80))
    columns = {"isa": "", "group": "d", "zero points": "", "K x N": "", "rows": "d", "GOPS": ".0f"}
    columns |= {"speed of int8": ".2f"}
    many = Table("int4 products of many rows, one thread, and int8 ones in turn", columns)
    worst: dict[tuple[int, bool], float] = {}
    for isa, (k, n), count in itertools.product(isas, extent.shapes, extent.many[:2]):
        kernels, operations = _core.Kernels(isa), 2 * count * k * n
        products = [Product(kernels, count, k, n), *(Int4Product(kernels, count, k, n, *kind) for kind in kinds)]
        repeat, best_of = max(1, 10**9 // operations), [float("inf")] * len(products)
        deadline = time.perf_counter() + extent.seconds
        while best_of[-1] == float("inf") or time.perf_counter() < deadline:
            best_of = [min(found, each.seconds(repeat)) for found, each in zip(best_of, products, strict=True)]
        for (group, zero_points), seconds in zip(kinds, best_of[1:], strict=True):
            ratio = best_of[0] / seconds
            shown = [isa, group, "yes" if zero_points else "no", f"{k} x {n}", count]
            many.rows.append([*shown, operations * repeat / seconds / 1e9, ratio])
            if isa == isas[-1]:
                worst[group, zero_points] = min(worst.get((group, zero_points), ratio), ratio)
    for (group, zero_points), ratio in worst.items():
        least = 0.6 if group == 32 else 0.8
        kind = f"groups of {group}" + (" with zero points" if zero_points else "")
        demand = f"{isas[-1]}, int4, {kind}: 96 rows and more at {least} times the speed of int8"
        report.verdicts.append(Verdict(demand, f"at least {ratio:.2f}", ratio >= least))
    report.tables.extend((few, many))


def sparse(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "K x N": "", "rows": "d", "dense weights, MB": ".0f", "density": ".2f"}
    columns |= {"dense, us": ".0f", "sparse, us": ".0f", "ratio": ".2f"}
    table = Table("Products without the lines of zeros against int8 products with them, one thread", columns)
    one_row = [(1, 512, 2048, buffer) for buffer in extent.buffers]
    many_rows = [(min(extent.many), k, n, k * n) for k, n in extent.shapes if k < 4096]
    worst: dict[tuple[bool, float], float] = {}
    for isa, (count, k, n, size), density in itertools.product(isas, one_row + many_rows, GAINS):
        copies = size // (k * n)
        pair = Pair(_core.Kernels(isa), count, k, n, density, copies)
        repeat = max(copies, 10**9 // (count * k * n) if copies == 1 else 0)
        # In turn, so that both meet the same neighbours.
        times = [[best(run, repeat, extent.seconds / 10) for run in (pair.dense, pair.sparse)] for _ in range(5)]
        dense, thin = (min(found) for found in zip(*times, strict=True))
        place = [isa, f"{k} x {n}", count, copies * k * n / 1e6, density]
        table.rows.append([*place, dense * 1e6, thin * 1e6, dense / thin])
        if isa == isas[-1]:
            key = count == 1, density
            worst[key] = min(worst.get(key, np.inf), dense / thin)
    report.tables.append(table)
    for (single, density), ratio in worst.items():
        place = f"{isas[-1]}, {'one row' if single else f'{min(extent.many)} rows'}, density {density}"
        demand = f"{place}: sparse at least {GAINS[density]} times as fast as dense"
        report.verdicts.append(Verdict(demand, f"at least {ratio:.2f}", ratio >= GAINS[density]))
    break_even(isas, extent, report)


def break_even(isas: list[str], extent: Extent, report: Report) -> None:
    columns = {"isa": "", "K x N": "", "rows": "d", "dense weights, MB": ".1f"}
    columns |= {f"{zeros:.0%} zeros": ".2f" for zeros in ZEROS} | {"as fast from, % zeros": ".0f"}
    table = Table("Few lines of zeros: products without them, times as fast as int8 products with them", columns)
    k, n = 256, 1024
    places = [(1, k * n), (1, extent.buffers[0]), (8, k * n), (min(extent.many), k * n)]
    for isa, (count, size) in itertools.product(isas, places):
        ratios = []
        for zeros in ZEROS:
            copies = size // (k * n)
            pair = Pair(_core.Kernels(isa), count, k, n, 1 - zeros, copies)
            repeat = max(copies, 10**8 // (count * k * n))
            times = [[best(run, repeat, extent.seconds / 10) for run in (pair.dense, pair.sparse)] for _ in range(5)]
            dense, thin = (min(found) for found in zip(*times, strict=True))
            ratios.append(dense / thin)
        rising = np.maximum.accumulate(ratios)
        even = 100 * float(np.interp(1.0, rising, ZEROS)) if rising[-1] >= 1 else None
        table.rows.append([isa, f"{k} x {n}", count, size / 1e6, *ratios, even])
    report.tables.append(table)


def float32(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "K x N": "", "rows": "d", "weights, MB": ".0f", "GFLOPS": ".0f", "% of the peak": ".0f",
               "GB/s": ".1f", "% of the bandwidth": ".0f"}  # fmt: skip
    table = Table("float32 products, one thread; one row over many matrices in turn", columns)
    for isa, (k, n), count in itertools.product(isas, extent.shapes, (1, max(extent.many))):
        kernels, size = _core.Kernels(isa), 4 * k * n
        copies = max(1, limits.CACHED // size) if count == 1 else 1
        w = np.random.default_rng(1).standard_normal((copies, n // 16, k, 16), np.float32)
        x, y, bias = np.ones((count, k), np.float32), np.empty((count, n), np.float32), np.ones(n, np.float32)

        def run(repeat: int) -> None:
            kernels.gemm_f32(x, w, y, bias, repeat=repeat)  # noqa: B023

        seconds = best(run, copies if count == 1 else max(1, 10**9 // (2 * count * k * n)), extent.seconds)
        work, peak = 2 * count * k * n / seconds, peaks.float32(every=False) if isa == isas[-1] else None
        cells: list[float | None] = [work / 1e9, 100 * work / peak if peak else None, None, None]
        if count == 1:
            rate = size / seconds
            # NumPy asks for huge pages too, where it gets them.
            cells[2:] = [rate / 1e9, 100 * rate / peaks.read(extent.buffers[0], every=False)]
        table.rows.append([isa, f"{k} x {n}", count, copies * size / 1e6, *cells])
    report.tables.append(table)


def on_cache_lines(values: np.ndarray) -> np.ndarray:
    """uint8 values that begin where a cache line does, as the engine's pages do and NumPy's arrays need not."""
    room = np.empty(values.size + 64, np.uint8)
    start = -room.ctypes.data % 64
    placed: np.ndarray = room[start : start + values.size].reshape(values.shape)
    placed[:] = values
    return placed


def pages_of(kind: str, count: int, heads: int, dims: int) -> np.ndarray:
    """Keys and values as uint8 [pages, heads, bytes of a head]."""
    tokens = 16
    head_bytes = tokens * (2 * dims + 2 * 4) if kind == "int8" else tokens * 2 * dims * 4
    rng, shape = np.random.default_rng(1), (count // tokens, heads, head_bytes)
    if kind == "float32":
        return on_cache_lines(rng.standard_normal((*shape[:2], head_bytes // 4), np.float32).view(np.uint8))
    values = rng.integers(-127, 128, shape, np.int8).view(np.uint8)
    values[..., -2 * tokens * 4 :] = np.full(2 * tokens, 0.01, np.float32).view(np.uint8)
    return on_cache_lines(values)


def attention(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "cache": "", "keys": ",d", "us": ".2f", "ns a key and head": ".2f", "GB/s": ".1f",
               "% of the bandwidth": ".0f"}  # fmt: skip
    table = Table("Attention of a row: 8 heads of 64 dimensions, one thread", columns)
    heads, dims = 8, 64
    for isa, kind, count in itertools.product(isas, KINDS, extent.keys):
        kernels, values = _core.Kernels(isa), pages_of(kind, count, heads, dims)
        q = np.random.default_rng(1).standard_normal((1, heads, dims), np.float32)
        y, sight = np.empty_like(q), np.array([[0, count, count - 1]])

        def run(repeat: int) -> None:
            kernels.attend(kind, q, values, sight, 0.125, y, heads, repeat=repeat)  # noqa: B023

        seconds = best(run, max(1, 400_000 // count), extent.seconds / 2)
        rate, limit = values.nbytes / seconds, peaks.read(limits.SECOND_LEVEL, every=False)
        cells = [seconds * 1e6, seconds * 1e9 / count / heads, rate / 1e9, 100 * rate / limit]
        table.rows.append([isa, kind, count, *cells])
    report.tables.append(table)


def tiles(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "cache": "", "dimensions": "d", "heads a key-value head": "d", "keys": ",d",
               "row by row, ns": ".1f", "tile, ns": ".1f", "times as fast": ".2f"}  # fmt: skip
    table = Table("Attention of a tile: ns a query and page of 16 keys, 4 key-value heads, one thread", columns)
    heads, count = 4, max(extent.keys)
    found: dict[tuple[str, int], list[float]] = {}
    for isa, kind, dims, group in itertools.product(isas, KINDS, (64, 128), (1, 3, 8)):
        kernels, own = _core.Kernels(isa), pages_of(kind, count, heads, dims)
        # As in a model: a page has room for the keys and values of all layers, of which one is read.
        pages = on_cache_lines(np.zeros((len(own), LAYERS, *own.shape[1:]), np.uint8))
        pages[:, LAYERS // 2] = own
        offset = LAYERS // 2 * own[0].nbytes
        q = np.random.default_rng(1).standard_normal((TILE_ROWS, heads * group, dims), np.float32)
        # A prompt's last rows.
        at = np.arange(count - TILE_ROWS, count)
        y, sight = np.empty_like(q), np.stack([0 * at, at + 1, at], axis=1)

        def alone(repeat: int) -> None:
            kernels.attend(kind, q, pages, sight, 0.125, y, heads, offset, repeat, alone=True)  # noqa: B023

        def tile(repeat: int) -> None:
            kernels.attend(kind, q, pages, sight, 0.125, y, heads, offset, repeat)  # noqa: B023

        # In turn, so that both meet the same neighbours.
        repeat = 32 // group  # the call itself takes as long as one query head
        pairs = [[best(run, repeat, extent.seconds / 5) for run in (alone, tile)] for _ in range(3)]
        apart, whole = (min(times) for times in zip(*pairs, strict=True))
        unit = 1e9 / (q.shape[0] * q.shape[1] * count / 16)
        table.rows.append([isa, kind, dims, group, count, apart * unit, whole * unit, apart / whole])
        if kind == "int8":
            found.setdefault((isa, min(group, 2)), []).append(apart / whole)
    report.tables.append(table)
    for (isa, several), ratios in found.items():
        least, heads_of = (1.5, "one query head") if several == 1 else (2.0, "several query heads")
        demand = f"{isa}: tiles {least} times as fast as row by row, {heads_of} a key-value head"
        report.verdicts.append(Verdict(demand, f"at least {min(ratios):.2f}", min(ratios) >= least))


def rowwise(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "kernel": "", "values": ",d", "ns": ".0f", "GB/s": ".1f", "% of the bandwidth": ".0f"}
    table = Table("Kernels over a row in the first-level cache, one thread; GB/s of values read", columns)
    for isa, name, n in itertools.product(isas, ("norm", "quantize", "exp_sum"), extent.values):
        kernels, x = _core.Kernels(isa), np.random.default_rng(1).standard_normal(n, np.float32)
        y, q, one, scale = np.empty_like(x), np.empty(n, np.int8), np.ones_like(x), np.empty(1, np.float32)

        def run(repeat: int) -> None:
            if name == "norm":  # noqa: B023
                kernels.norm(x, one, one, 1e-5, y, repeat)  # noqa: B023
            elif name == "quantize":  # noqa: B023
                kernels.quantize(x, len(x), kernels.flip, q, scale, repeat)  # noqa: B023
            else:
                kernels.exp_sum(x, repeat)  # noqa: B023

        seconds = best(run, 20_000_000 // (n * 16), extent.seconds / 2)
        rate = x.nbytes / seconds
        cells = [seconds * 1e9, rate / 1e9, 100 * rate / peaks.read(limits.SECOND_LEVEL, every=False)]
        table.rows.append([isa, name, n, *cells])
    report.tables.append(table)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--only", choices=TABLES, help="one table")
    made.add_argument("--quick", action="store_true", help="a few shapes: to see that it runs")
    made.add_argument("--all", action="store_true", help="the scalar reference too")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    isas = [isa for isa in _core.available_isas() if options.all or isa != "ref"]
    peaks = limits.measure(limits.SECOND_LEVEL, *extent.buffers)
    report = Report("kernels", {"limits": peaks.figures})
    measures = (gemm, rows, int4, sparse, logits, barriers, float32, attention, tiles, rowwise)
    for name, measure in zip(TABLES, measures, strict=True):
        if options.only in (None, name):
            measure(isas, extent, peaks, report)
    publish(report, options)


if __name__ == "__main__":
    main()

"""The matrix products of each instruction set, as a share of what this machine can do in the same run.

    python benchmarks/kernels.py [--only gemm|rows]

One thread; the input is quantized already, the epilogue (scales, bias, activation) is included. The best of many
short runs counts. `gemm`: many rows, against the int8 peak. `rows`: a few rows over matrices of 512 x 2,048 that are
walked in turn, in huge pages, against the bandwidth of a buffer of that size.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass

import limits
import numpy as np
from report import Report, Table, Verdict, parser, publish

from pyengine import _core

TABLES = ("gemm", "rows")


@dataclass(frozen=True)
class Extent:
    """What is measured. `shapes`: K x N of `gemm`; `buffers`: bytes of weights of `rows`; `seconds` a figure."""

    shapes: tuple[tuple[int, int], ...] = ((512, 2048), (2048, 512), (1024, 4096), (4096, 4096))
    many: tuple[int, ...] = (96, 192, 384)
    few: tuple[int, ...] = (1, 2, 4, 8)
    buffers: tuple[int, ...] = (limits.CACHED, limits.MEMORY)
    seconds: float = 0.5


QUICK = Extent(shapes=((512, 2048),), many=(96,), buffers=(limits.CACHED,), seconds=0.02)


class Product:
    """`copies` int8 matrices of K x N in huge pages, and `rows` quantized rows."""

    def __init__(self, kernels: _core.Kernels, rows: int, k: int, n: int, copies: int = 1) -> None:
        self._kernels = kernels
        size = copies * n * k
        memory = mmap.mmap(-1, size + (1 << 21))
        memory.madvise(mmap.MADV_HUGEPAGE)
        start = -np.frombuffer(memory, np.uint8).ctypes.data % (1 << 21)
        self._w = np.frombuffer(memory, np.int8, size, start).reshape(copies, n // 16, k // 4, 16, 4)
        self._w[:] = np.random.default_rng(1).integers(-127, 128, self._w.shape[1:], np.int8)
        self._sums = np.empty(n, np.int32)
        kernels.channel_sums(self._w[0], self._sums)
        self._scales, self._bias = np.full(n, 0.01, np.float32), np.ones(n, np.float32)
        self.rows(rows)

    def rows(self, rows: int) -> None:
        k, n = self._w.shape[2] * 4, len(self._bias)
        self._x = np.random.default_rng(2).integers(-127, 128, (rows, k), np.int8)
        self._x_scale, self._y = np.ones(rows, np.float32), np.empty((rows, n), np.float32)

    def seconds(self, repeat: int) -> float:
        """Of `repeat` products, the matrices in turn."""
        start = time.perf_counter()
        self._kernels.gemm_q8(self._x, self._x_scale, self._w, self._scales, self._sums, self._y, self._bias,
                              activation="relu", repeat=repeat)  # fmt: skip
        return time.perf_counter() - start

    def best(self, repeat: int, seconds: float) -> float:
        """Seconds of one product, in the best of the runs of `repeat` that fit into `seconds`; at least five."""
        runs: list[float] = []
        while len(runs) < 5 or sum(runs) < seconds:
            runs.append(self.seconds(repeat))
        return min(runs) / repeat


def gemm(isas: list[str], extent: Extent, peaks: limits.Limits, report: Report) -> None:
    columns = {"isa": "", "K x N": "", "rows": "d", "GOPS": ".0f", "% of the int8 peak": ".0f"}
    table = Table("int8 products of many rows, one thread", columns)
    for isa in isas:
        peak, shares = peaks.int8(isa, every=False), []
        for k, n in extent.shapes:
            product = Product(_core.Kernels(isa), 1, k, n)
            for rows in extent.many:
                product.rows(rows)
                operations = 2 * rows * k * n
                rate = operations / product.best(max(1, 2 * 10**9 // operations), extent.seconds)
                shares.append(100 * rate / peak if peak else None)
                table.rows.append([isa, f"{k} x {n}", rows, rate / 1e9, shares[-1]])
        if isa == isas[-1] and peak:
            demand = f"{isa}: {min(extent.many)} rows and more at 90 % of the int8 peak"
            report.verdicts.append(Verdict(demand, f"at least {min(shares):.0f} %", min(shares) >= 90))
    report.tables.append(table)


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


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--only", choices=TABLES, help="one table")
    made.add_argument("--quick", action="store_true", help="a few shapes: to see that it runs")
    made.add_argument("--all", action="store_true", help="the scalar reference too")
    options = made.parse_args()
    extent = QUICK if options.quick else Extent()
    isas = [isa for isa in _core.available_isas() if options.all or isa != "ref"]
    peaks = limits.measure(*extent.buffers, threads=1)
    report = Report("kernels", {"threads": 1, "limits": peaks.figures})
    for name, measure in (("gemm", gemm), ("rows", rows)):
        if options.only in (None, name):
            measure(isas, extent, peaks, report)
    publish(report, options)


if __name__ == "__main__":
    main()

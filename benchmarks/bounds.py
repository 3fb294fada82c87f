"""What the machine can do at most: bandwidth of caches and memory, int8 and float32 peaks. Needs a compiler.

    python benchmarks/bounds.py

Measured by limits.c, which shares no code with the engine. Each figure is the best of a quarter of a second of short
repetitions, and of five such rounds: other tenants of a machine slow it down, nothing speeds it up. Bandwidth is that of
reading a buffer over and over: 1 MB lies in the second-level cache, 52 MB are about the weights that a decoding step of
the base-size model reads, and 1 GiB is larger than all caches. GOPS are thousands of millions of operations a second with
the best instructions of each set.

Two tests check it that share nothing with it: the C library's memcmp, comparing two equal halves of 1 GiB, whose rounds
alternate with those of limits.c; and the clock (timed by a chain of additions) times the operations a cycle that the
CPU's maker states.
"""

from __future__ import annotations

import limits
from machine import cpuinfo
from report import Report, Table, Verdict, parser, publish

from pyengine import _core
from pyengine.cpus import usable_cpus

ROUNDS = 5


def main() -> None:
    options = parser(__doc__).parse_args()
    threads = usable_cpus()
    sizes = limits.SECOND_LEVEL, limits.CACHED, limits.MEMORY
    # Other tenants come and go: both sides in turn, equally often, and the best of each.
    measured: list[limits.Limits] = []
    others: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(ROUNDS):
        measured.append(limits.measure(*sizes))
        for count, rates in others.items():
            rates.append(limits.stream(limits.MEMORY, count))
    found = limits.best(measured)
    columns = {"buffer, MB": ",.0f", "pages": "", "one thread": ".1f", f"{threads} threads": ".1f"}
    reads = Table("Read bandwidth, GB/s", columns)
    for size in sizes:
        for huge in (False, True):
            rates = [found.read(size, every=every, huge=huge) / 1e9 for every in (False, True)]
            reads.rows.append([size / 1e6, "2 MiB" if huge else "4 KiB", *rates])
    peaks = Table("Peak, GOPS (a product and a sum are two operations)", {"": "", **dict(list(columns.items())[2:])})
    isas = [isa for isa in _core.available_isas() if found.int8(isa)]
    for isa in isas:
        peaks.rows.append([f"int8, {isa}", *(found.int8(isa, every=every) / 1e9 for every in (False, True))])
    peaks.rows.append(["float32", *(found.float32(every=every) / 1e9 for every in (False, True))])

    report = Report("bounds", {"threads": threads, "figures": found.figures}, [reads, peaks])

    def compare(demand: str, measured: float, other: float) -> None:
        shown = f"{measured / 1e9:.1f} against {other / 1e9:.1f}"
        report.verdicts.append(Verdict(demand, shown, abs(measured / other - 1) <= 0.05))

    for count, rates in others.items():
        demand = f"bandwidth of memory, {count} threads: within 5 % of memcmp, GB/s"
        compare(demand, found.read(limits.MEMORY, every=count == threads), max(rates))
    known = limits.operations_a_cycle(cpuinfo())
    if known:
        expected = found.clock * known * threads
        demand = f"int8 peak: within 5 % of clock x {known} x {threads}, GOPS"
        compare(demand, found.int8(isas[-1]), expected)
    report.notes.append(f"Clock, by a chain of additions: {found.clock / 1e9:.2f} GHz.")
    publish(report, options)


if __name__ == "__main__":
    main()

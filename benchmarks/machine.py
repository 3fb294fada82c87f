"""The machine that a figure was measured on, as far as it matters for the figure; no host name, no paths.

    python benchmarks/machine.py        # and what it can do at most
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sysconfig
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pyengine import _core
from pyengine.cpus import usable_cpus

__all__ = ["cpuinfo", "describe"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "pyengine", "numpy", "sentencepiece", "tokenizers", "safetensors", "sacrebleu", "torch", "transformers",
    "ctranslate2",
)  # fmt: skip
ROUNDS = 5
CPU_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm",
)  # fmt: skip


def describe() -> dict[str, object]:
    """Names and numbers, ready for JSON."""
    cpu = cpuinfo()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.machine(),
        "cpu_family_model_stepping": [cpu.get(key) for key in ("cpu family", "model", "stepping")],
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cpus": usable_cpus(),
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "compiler": _compiler(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "isa": _core.available_isas()[-1],
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> list[str]:
    """The first processor's caches, such as "L1 Data 48K"."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        parts = ((folder / name).read_text(encoding="ascii").strip() for name in ("level", "type", "size"))
        level, kind, size = parts
        found.append(f"L{level} {kind} {size}")
    return found


def _compiler() -> str:
    """The first line of `--version` of the compiler that the build takes."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    return _output([*command, "--version"]).split("\n")[0] or "none found"


def _version(package: str) -> str | None:
    if package == "pyengine":  # run from a checkout it has no metadata
        from pyengine import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The short name of HEAD; " + changes" where a file differs from it that can move a figure."""
    name = _output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip()
    paths = ["csrc", "pyengine", "quantize", "setup.py", "benchmarks/*.py"]
    changes = _output(["git", "-C", str(ROOT), "status", "--porcelain", "--", *paths])
    return name + (" + changes" if changes.strip() else "") if name else None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""


def main() -> None:
    import limits  # what follows needs a compiler, and report.py needs this file
    from report import Report, Table, Verdict, parser, publish

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

    report = Report("machine", {"threads": threads, "figures": found.figures}, [reads, peaks])

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

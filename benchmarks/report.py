"""What the benchmarks share: a report of tables and verdicts, printed or kept as JSON.

    python benchmarks/report.py benchmarks/results/*.json      # saved figures as Markdown
    python benchmarks/report.py benchmarks/results/*.json --update docs/performance.md
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe

__all__ = ["Report", "Table", "Verdict", "load", "markdown", "parser", "publish", "spread", "updated"]


@dataclass(frozen=True)
class Table:
    """`columns`: name -> format of its cells, "" for text; a cell may be None."""

    title: str
    columns: dict[str, str]
    rows: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """A demand, what was found, and whether the demand is met."""

    demand: str
    found: str
    met: bool


@dataclass(frozen=True)
class Report:
    """`settings`: what the figures depend on besides the machine; `notes`: lines for people."""

    benchmark: str
    settings: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures and what the machine is")
    made.add_argument("--markdown", action="store_true", help="print Markdown")
    return made


def publish(report: Report, options: argparse.Namespace) -> None:
    """Print the report, and write it where --json says."""
    if options.json:
        saved = {**asdict(report), "machine": describe()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(markdown(report) if options.markdown else plain(report))


def markdown(report: Report) -> str:
    parts = []
    for table in _all_tables(report):
        ruler = ["-:" if kind else "-" for kind in table.columns.values()]
        lines = [list(table.columns), ruler, *_cells(table)]
        parts.append(f"{table.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, *report.notes])


def plain(report: Report) -> str:
    parts = []
    for table in _all_tables(report):
        lines = [list(table.columns), *_cells(table)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = [bool(kind) for kind in table.columns.values()]
        parts.append("\n".join([table.title, *(_aligned(line, widths, right) for line in lines)]))
    return "\n\n".join([*parts, *report.notes])


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _all_tables(report: Report) -> list[Table]:
    if not report.verdicts:
        return report.tables
    rows = [[verdict.demand, verdict.found, "yes" if verdict.met else "NO"] for verdict in report.verdicts]
    return [*report.tables, Table("What is asked", {"demand": "", "found": "", "met": ""}, rows)]


def _cells(table: Table) -> list[list[str]]:
    kinds = table.columns.values()
    return [
        ["-" if cell is None else format(cell, kind) for cell, kind in zip(row, kinds, strict=True)]
        for row in table.rows
    ]


def _aligned(line: list[str], widths: list[int], right: list[bool]) -> str:
    cells = zip(line, widths, right, strict=True)
    padded = (cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in cells)
    return "  ".join(padded).rstrip()


def load(path: Path) -> Report:
    """What --json wrote."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    return Report(
        benchmark=saved["benchmark"],
        settings=saved["settings"],
        tables=[Table(**table) for table in saved["tables"]],
        verdicts=[Verdict(**verdict) for verdict in saved["verdicts"]],
        notes=[*saved["notes"], _machine_line(saved["machine"])],
    )


def _machine_line(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    parts = (f"{machine['cpu']} ({machine['isa']})", f"{machine['cpus']} CPUs", memory, machine["kernel"],
             machine["compiler"], machine["python"], packages)  # fmt: skip
    return f"{', '.join(parts)}; commit {machine['commit']}, {machine['date']}."


def updated(page: str, reports: list[Report]) -> str:
    """The page with each report between the lines that bear its name; ValueError where they are missing."""
    for report in reports:
        begin, end = (f"<!-- {word} {report.benchmark} -->\n" for word in ("begin", "end"))
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no place for {report.benchmark}: expected {begin!r} and {end!r}")
        page = f"{before}{begin}{markdown(report)}\n{end}{after}"
    return page


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("results", nargs="+", type=Path, metavar="FILE", help="what --json wrote")
    made.add_argument("--update", type=Path, metavar="PAGE", help="write the tables into this Markdown page")
    options = made.parse_args()
    reports = [load(path) for path in options.results]
    if options.update:
        page = options.update.read_text(encoding="utf-8")
        options.update.write_text(updated(page, reports), encoding="utf-8")
    else:
        print("\n\n".join(markdown(report) for report in reports))


if __name__ == "__main__":
    main()

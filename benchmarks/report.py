"""What the benchmarks share: a report of tables and verdicts, printed or kept as JSON.

    python benchmarks/report.py benchmarks/results/speed.json     # the saved figures as Markdown
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe

__all__ = ["Report", "Table", "Verdict", "markdown", "parser", "publish", "spread"]


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
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the machine's description")
    made.add_argument("--markdown", action="store_true", help="print Markdown")
    return made


def publish(report: Report, options: argparse.Namespace) -> None:
    """Print the report, and write it where --json says."""
    if options.json:
        saved = {**asdict(report), "machine": describe()}
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
    return "  ".join(cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in cells).rstrip()


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("results", type=Path, metavar="FILE", help="what --json wrote")
    saved = json.loads(made.parse_args().results.read_text(encoding="utf-8"))
    report = Report(
        benchmark=saved["benchmark"],
        settings=saved["settings"],
        tables=[Table(**table) for table in saved["tables"]],
        verdicts=[Verdict(**verdict) for verdict in saved["verdicts"]],
        notes=saved["notes"],
    )
    print(markdown(report))


if __name__ == "__main__":
    main()

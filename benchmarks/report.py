"""What the benchmarks share: a report of tables and verdicts, printed, kept as JSON, or shown as a page.

    python benchmarks/report.py                  # docs/performance/ of benchmarks/results/, and the summary
    python benchmarks/report.py FILE...          # saved figures as Markdown, printed
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from machine import describe

__all__ = ["DOCS", "RESULTS", "Report", "Table", "Verdict", "load", "parser", "publish", "spread"]

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"


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
    return "\n\n".join([*(_table(table) for table in _all_tables(report)), *report.notes])


def _table(table: Table) -> str:
    ruler = ["-:" if kind else "-" for kind in table.columns.values()]
    lines = [list(table.columns), ruler, *_cells(table)]
    title = [f"**{table.title}**\n"] if table.title else []
    return "\n".join([*title, *(f"| {' | '.join(line)} |" for line in lines)])


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


def page(name: str, report: Report) -> str:
    """The page of a result: the benchmark's docstring explains what it is, then come its tables."""
    program = program_of(name)
    title, text = explained(program)
    return (
        f"# {name}\n\n**{title}.**\n\n{_linked(text)}\n\n`python benchmarks/report.py` makes this page of "
        f"`benchmarks/results/{name}.json`, which `benchmarks/{program}.py` wrote. Results of all benchmarks: "
        f"[performance](../performance.md).\n\n## What was found\n\n{markdown(report)}\n"
    )


def summary(reports: dict[str, Report]) -> str:
    """What was asked, a line a result, and what was not met."""
    table = Table("", {"result": "", "what it measures": "", "met": ""})
    misses = Table("Not met", {"result": "", "demand": "", "found": ""})
    for name, report in reports.items():
        met = sum(verdict.met for verdict in report.verdicts)
        link = f"[{name}](performance/{name}.md)"
        table.rows.append([link, explained(program_of(name))[0], f"{met} of {len(report.verdicts)}"])
        misses.rows.extend([link, each.demand, each.found] for each in report.verdicts if not each.met)
    return "\n\n".join(_table(each) for each in (table, misses))


def program_of(name: str) -> str:
    """The benchmark that a result comes from, whose name its own begins with: peers_mt of peers-mt-avx2."""
    parts = name.split("-")
    names = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next(each for each in names if (ROOT / "benchmarks" / f"{each}.py").exists())


def explained(program: str) -> tuple[str, str]:
    """The first line of a benchmark's docstring, without its full stop, and the rest. It is not imported: it may need
    what is not installed."""
    source = (ROOT / "benchmarks" / f"{program}.py").read_text(encoding="utf-8")
    title, _, text = (ast.get_docstring(ast.parse(source)) or program).partition("\n")
    return title.rstrip("."), text.strip("\n")


def _linked(text: str) -> str:
    """With links where it names a page of docs/."""
    return re.sub(r"\bdocs/([\w./-]+\.md)", r"[\g<0>](../\1)", text)


def write_pages(docs: Path, results: Path) -> None:
    """performance/NAME.md of every result, and the summary between its marks in performance.md."""
    reports = {name: load(results / f"{name}.json") for name in sorted(path.stem for path in results.glob("*.json"))}
    for name, report in reports.items():
        (docs / "performance" / f"{name}.md").write_text(page(name, report), encoding="utf-8")
    front = docs / "performance.md"
    before, begin, rest = front.read_text(encoding="utf-8").partition("<!-- begin summary -->\n")
    _, end, after = rest.partition("<!-- end summary -->\n")
    if not end:
        raise ValueError(f"{front} has no place for the summary: expected two comments, begin summary and end summary")
    front.write_text(f"{before}{begin}{summary(reports)}\n{end}{after}", encoding="utf-8")


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("results", nargs="*", type=Path, metavar="FILE", help="what --json wrote, to print")
    made.add_argument("--docs", type=Path, metavar="DIR", default=DOCS, help="where the pages are (default: docs)")
    options = made.parse_args()
    if options.results:
        print("\n\n".join(markdown(load(path)) for path in options.results))
    else:
        write_pages(options.docs, RESULTS)


if __name__ == "__main__":
    main()

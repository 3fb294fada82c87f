"""The pictures of docs/performance.md, drawn from benchmarks/results: ratios to a peer, shares of a limit, phases.

    python benchmarks/pictures.py       # needs pip install ".[report]"

Each is an SVG that follows the reader's page from light to dark, with all its numbers in its description.
"""

from __future__ import annotations

import argparse
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import DOCS, RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PICTURES", "Bar", "Picture"]

WIDTH = 7.6  # inches
ROW = 0.2  # inches of a bar
FRAME = 1.35  # inches above and below all bars
LIGHT = {"paper": "#ffffff", "ink": "#1c2430", "line": "#d5dbe3", "before": "#9fb0c4", "after": "#2166ac",
         "mark": "#c2410c"}  # fmt: skip
DARK = {"paper": "#14181e", "ink": "#e4e8ee", "line": "#343d49", "before": "#5d6c7f", "after": "#5aa2e6",
        "mark": "#f08a4b"}  # fmt: skip
PHASES = ("#5b9bd5", "#e8935a", "#5fb28c", "#a58bd6", "#9aa5b3", "#e0b84c")
ON_PHASES = "#10141a"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
ISAS = {"avx2": "AVX2", "avx512vnni": "AVX-512 VNNI", "avxvnni": "AVX-VNNI", "neon": "NEON", "amx": "AMX"}


@dataclass(frozen=True)
class Bar:
    """A line of a picture. `values`: one a series, None where there is none; `spreads`: smallest and largest."""

    group: str
    label: str
    values: tuple[float | None, ...]
    spreads: tuple[tuple[float, float], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """What is drawn: `series` names the values of a bar; `shown` writes one, without its `unit`; `limit`: where a
    line stands; `stacked`: values are parts of 100."""

    name: str
    title: str
    below: str
    series: tuple[str, ...]
    bars: tuple[Bar, ...]
    shown: Callable[[float], str]
    unit: str
    limit: tuple[float, str] = (100.0, "the limit")
    stacked: bool = False

    def description(self) -> str:
        """All that it shows, in words."""
        lines = [self.title, self.below]
        for bar in self.bars:
            parts = [
                f"{series} {self.shown(value)}" + (" ({:g} to {:g})".format(*bar.spreads[i]) if bar.spreads else "")
                for i, (series, value) in enumerate(zip(self.series, bar.values, strict=True))
                if value is not None
            ]
            name = ", ".join(part for part in (bar.group, bar.label, bar.note) if part)
            lines.append(f"{name}: {'; '.join(parts)}")
        return "\n".join(lines)


Result = dict[str, Any]


def rows(result: Result, title: str) -> list[dict[str, Any]]:
    """Of the table whose title begins so: its lines, by column."""
    for table in result["tables"]:
        if table["title"].startswith(title):
            return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    raise KeyError(f"{result['benchmark']} has no table {title!r}")


def machine(result: Result) -> str:
    about = result["machine"]
    return f"{about['cpu']} with {ISAS.get(about['isa'], about['isa'])}, {about['cpus']} cores"


def ratio(result: Result) -> Picture:
    """Times as fast as CTranslate2, of peers-mt."""
    bars = []
    for group, title in (("base size, 74 million parameters", "(b)"), ("the example, 7 million", "(a)")):
        by_setting: dict[tuple[int, int], dict[int, str]] = {}
        for row in rows(result, title):
            by_setting.setdefault((row["beams"], row["sentences"]), {})[row["threads"]] = row["ratio"]
        threads = sorted({count for found in by_setting.values() for count in found})
        for (beams, sentences), found in by_setting.items():
            search = "greedy" if beams == 1 else f"beam {beams}"
            many = {0: "1,000 sentences", 1: "1 sentence"}.get(sentences, f"{sentences} sentences")
            numbers = [[float(part) for part in re.findall(r"[\d.]+", found[count])] for count in threads]
            spreads = tuple((low, high) for _, low, high in numbers)
            bars.append(Bar(group, f"{search}, {many}", tuple(one[0] for one in numbers), spreads))
    versions = result["machine"]["packages"]
    return Picture(
        "ratio",
        f"pyengine: how many times as fast as CTranslate2 {versions['ctranslate2']}",
        f"int8; so many sentences a call. Bar: median of runs in turn; line: smallest to largest. {machine(result)}.",
        tuple(f"{count} thread{'s' if count > 1 else ''}" for count in threads),
        tuple(bars),
        "{:.1f}".format,
        "×",
        (1.0, "equally fast"),
    )


def limit(result: Result) -> Picture:
    """Shares of the machine's limit, one thread, of kernels."""
    isas = list(dict.fromkeys(row["isa"] for row in rows(result, "int8 layers")))
    shapes = dict.fromkeys(row["K x N"] for row in rows(result, "int8 layers"))
    sizes = dict.fromkeys(row["weights, MB"] for row in rows(result, "int8 products of few"))
    computing, reading = "limited by arithmetic", "limited by reading memory"
    peak, bandwidth = "% of the int8 peak", "% of the bandwidth"
    lines: list[tuple[str, str, str, str, dict[str, object]]] = []  # group, label, table, column, row
    for shape in shapes:
        label = f"int8 matrix product, 96 rows, {shape.replace(' x ', ' × ')}"
        lines.append((computing, label, "int8 layers", peak, {"threads": 1, "rows": 96, "K x N": shape}))
    many = {"rows": 384, "K x N": "512 x 2048"}
    lines.append((computing, "float32 matrix product, 384 rows, 512 × 2048", "float32", "% of the peak", many))
    for size, place in zip(sizes, ("52 MB", "1 GB"), strict=True):
        one = {"weights, MB": size, "rows": 1}
        lines.append((reading, f"int8 product with 1 row, {place} of weights", "int8 products of few", bandwidth, one))
        four = one | {"group": 64, "zero points": "no"}
        lines.append((reading, f"int4 product with 1 row, {place} of weights", "int4 products of few", bandwidth, four))
    for cache in ("int8", "float32"):
        label, keys = f"attention, 1 row, 256 keys in {cache}", {"cache": cache, "keys": 256}
        lines.append((reading, label, "Attention of a row", bandwidth, keys))
    bars = []
    for group, label, title, column, where in lines:
        chosen = [row for row in rows(result, title) if where.items() <= row.items()]
        found = {row["isa"]: row[column] for row in chosen}
        bars.append(Bar(group, label, tuple(found.get(isa) for isa in isas)))
    return Picture(
        "limit",
        "pyengine: per cent of what the machine can do at most",
        f"One thread. Limits are measured in the same run, by a program that shares no code. {machine(result)}.",
        tuple(ISAS.get(isa, isa) for isa in isas),
        tuple(bars),
        "{:.0f}".format,
        "%",
    )


def phases(result: Result) -> Picture:
    """Shares of a step's time, of phases."""
    names = {"example": "the example", "base": "base size"}
    bars = []
    for row in sorted(rows(result, "A step"), key=lambda row: (row["step"] == "encoder", row["model"] == "base")):
        sentences = "1 sentence" if row["sentences"] == 1 else f"{row['sentences']} sentences"
        shares = {name.removesuffix(", %"): cell for name, cell in row.items() if name.endswith(", %")}
        decoding = "decoding step: writes a token of each sentence"
        step = decoding if row["step"] == "decoding" else "encoder step: reads all tokens of the sentences"
        label, ms = f"{names.get(row['model'], row['model'])}, {sentences}", row["ms"]
        time = f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
        bars.append(Bar(step, label, tuple(shares.values()), note=time))
    return Picture(
        "phases",
        "pyengine: where the time of a step goes",
        f"int8, greedy, one thread. Per cent of a step's time, which stands at the right. {machine(result)}.",
        tuple(shares),
        tuple(bars),
        "{:.0f}".format,
        "%",
        stacked=True,
    )


PICTURES: dict[str, Callable[[Result], Picture]] = {"peers-mt": ratio, "kernels": limit, "phases": phases}
"""By the result that they are drawn of."""


def drawn(picture: Picture) -> str:
    """The SVG document."""
    from pyengine.quantize.report.figure import plot

    groups = list(dict.fromkeys(bar.group for bar in picture.bars))
    thick = 1 if picture.stacked else len(picture.series)
    step = 1.25 if picture.stacked else thick + 0.5  # from a bar to the next, in bars
    places: list[float] = []
    y = 0.0
    for i, bar in enumerate(picture.bars):
        y += (1.7 if i else 0.9) if i == 0 or bar.group != picture.bars[i - 1].group else 0.0
        places.append(y)
        y += step
    height = FRAME + ROW * y

    def draw(axes: Axes) -> None:
        if picture.stacked:
            _draw_parts(axes, picture, places)
        else:
            _draw_beside(axes, picture, places)
        axes.set_yticks([place + (thick - 1) / 2 for place in places], [bar.label for bar in picture.bars])
        axes.set_ylim(y - 0.3, -0.9)
        for group in groups:
            first = next(place for place, bar in zip(places, picture.bars, strict=True) if bar.group == group)
            where = {"ha": "left", "xytext": (2, 0)} if picture.stacked else {"ha": "right", "xytext": (-3, 0)}
            axes.annotate(
                group, (0, first - 0.95), xycoords=("axes fraction", "data"), textcoords="offset points",
                va="center", fontweight="bold", **where,
            )  # fmt: skip
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.figure.supxlabel(picture.below, x=0.012, ha="left", fontsize=8)
        axes.figure.legend(
            loc="outside upper left", ncols=len(picture.series), frameon=False, handlelength=1, columnspacing=1.4,
            title=picture.title, title_fontproperties={"size": 12, "weight": "bold"}, alignment="left",
        )  # fmt: skip

    return _standalone(plot(picture.name, picture.title, height, draw, WIDTH), picture)


def _draw_beside(axes: Axes, picture: Picture, places: list[float]) -> None:
    """A bar for each value, from 0 on."""
    from pyengine.quantize.report.svg import COLOURS

    ink, _, before, after, mark = COLOURS
    for series, (name, colour) in enumerate(zip(picture.series, (before, after), strict=True)):
        found = [(place + series, bar, bar.values[series]) for place, bar in zip(places, picture.bars, strict=True)]
        present = [(place, bar, value) for place, bar, value in found if value is not None]
        axes.barh([place for place, _, _ in present], [value for *_, value in present], 0.92, color=colour, label=name)
        for place, bar, value in present:
            end = value
            if bar.spreads:
                low, end = bar.spreads[series]
                axes.plot([low, end], [place, place], color=ink, linewidth=0.9)
            beside = picture.limit[0] if 0.9 * picture.limit[0] < end < picture.limit[0] else end  # not on its line
            axes.annotate(
                picture.shown(value), (beside, place), xytext=(4, 0), textcoords="offset points",
                va="center_baseline", fontsize=7.5,
            )  # fmt: skip
    value, name = picture.limit
    axes.axvline(value, color=mark, linewidth=1.2, zorder=3)
    axes.annotate(name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
                  color=mark, ha="center", fontsize=8)  # fmt: skip
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} {picture.unit}")


def _draw_parts(axes: Axes, picture: Picture, places: list[float]) -> None:
    """A bar of parts for each line, with its note at the end."""
    starts = [0.0] * len(places)
    for series, (name, colour) in enumerate(zip(picture.series, PHASES, strict=True)):
        values = [bar.values[series] or 0.0 for bar in picture.bars]
        axes.barh(places, values, 0.9, left=starts, color=colour, label=name)
        for place, start, value in zip(places, starts, values, strict=True):
            if value >= 5:
                axes.annotate(
                    picture.shown(value), (start + value / 2, place), ha="center", va="center_baseline",
                    color=ON_PHASES, fontsize=8,
                )  # fmt: skip
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    for place, bar in zip(places, picture.bars, strict=True):
        axes.annotate(bar.note, (100, place), xytext=(5, 0), textcoords="offset points", va="center_baseline",
                      annotation_clip=False)  # fmt: skip
    axes.set_xlim(0, 108)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _standalone(markup: str, picture: Picture) -> str:
    """A plot that stands in a page, as a document of its own: the colours of both schemes, title, description."""
    root = ET.fromstring(markup)
    for element in root.iter():
        _plain_colours(element)
    left, top, width, height = root.attrib["viewBox"].split()
    root.attrib |= {
        "xmlns": "http://www.w3.org/2000/svg", "width": f"{float(width) * 1.5:.0f}",
        "height": f"{float(height) * 1.5:.0f}", "font-family": FONT, "stroke-linejoin": "round",
    }  # fmt: skip
    paper = ET.Element("rect", x=left, y=top, width=width, height=height, rx="6", fill=LIGHT["paper"])
    paper.set("class", "fill-paper")
    title, description, style = (ET.Element(name) for name in ("title", "desc", "style"))
    title.text, description.text = picture.title, picture.description()
    rules = (f".{of}-{name}{{{of}:{colour}}}" for name, colour in DARK.items() for of in ("fill", "stroke"))
    style.text = "@media (prefers-color-scheme: dark){" + "".join(rules) + "}"
    root[:0] = [title, description, style, paper]
    return ET.tostring(root, encoding="unicode") + "\n"


def _plain_colours(element: ET.Element) -> None:
    """Colours of the page become attributes, which any viewer knows, and classes, which a dark page overrules."""
    style = element.attrib.get("style", "")
    classes = []
    for of, name in re.findall(r"(fill|stroke): var\(--(\w+)\)", style):
        element.set(of, LIGHT[name])
        classes.append(f"{of}-{name}")
    if classes:
        element.set("class", " ".join(classes))
        element.set("style", re.sub(r"(fill|stroke): var\(--\w+\);? ?", "", style))
        if not element.attrib["style"]:
            del element.attrib["style"]


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--docs", type=Path, metavar="DIR", default=DOCS, help="where the pages are (default: docs)")
    options = made.parse_args()
    for name, picture_of in PICTURES.items():
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        picture = picture_of(result)
        (options.docs / "performance" / f"{picture.name}.svg").write_text(drawn(picture), encoding="utf-8")


if __name__ == "__main__":
    main()

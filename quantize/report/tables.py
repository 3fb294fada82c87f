"""The tables of a report: one function each, from the data to HTML."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Sequence

from pyengine.quantize.report.data import (
    CalibrationText,
    Change,
    ChangedLine,
    CompressionReport,
    EndToEnd,
    InputRanges,
    Layer,
    ParetoPoint,
    Pruned,
    Speed,
    States,
)
from pyengine.quantize.report.markup import Markup, join, tag
from pyengine.quantize.report.wording import Wording, wording
from pyengine.quantize.report.words import change, decibels, percent, significant, size

__all__ = [
    "calibration_table",
    "inputs_table",
    "layers_table",
    "lines_table",
    "outliers_table",
    "pareto_table",
    "pruned_table",
    "quality_table",
    "run_table",
    "sizes_table",
    "speed_table",
]


@dataclass(frozen=True)
class _Column:
    """A heading, the class of its cells ("number" is flush right), and a cell for each row; None: nothing known."""

    title: str
    kind: str
    cells: Sequence[str | None]


def _table(*columns: _Column, chosen: Sequence[bool] = ()) -> Markup:
    """A table in a box that scrolls; columns of which nothing is known are left out, ``chosen`` rows stand out."""
    known = [column for column in columns if any(cell is not None for cell in column.cells)]
    head = tag("tr", *(tag("th", column.title, class_=column.kind, scope="col") for column in known))
    rows = []
    for index, cells in enumerate(zip(*(column.cells for column in known))):
        marked = {"class_": "chosen"} if chosen and chosen[index] else {}
        line = (
            tag("td", "\N{EN DASH}" if cell is None else cell, class_=column.kind)
            for column, cell in zip(known, cells)
        )
        rows.append(tag("tr", *line, **marked))
    inside = tag("table", tag("thead", head), tag("tbody", *rows))
    # tabindex: a box that scrolls can be reached and scrolled with the keyboard.
    return tag("div", inside, class_="scroll", tabindex="0")


def sizes_table(report: CompressionReport) -> Markup:
    kinds: dict[str, list[int]] = {}
    for layer in report.layers:
        total = kinds.setdefault(f"{layer.type_before} → {layer.type_after}", [0, 0, 0])
        for place, more in enumerate((1, layer.bytes_before, layer.bytes_after)):
            total[place] += more
    rows: list[tuple[str, str | None, int, int]] = [
        (name, f"{count}", before, after) for name, (count, before, after) in kinds.items()
    ]
    rows.append(("whole model", None, report.bytes_before, report.bytes_after))
    before, after = wording(report).sides
    return _table(
        _Column("stored as", "", [row[0] for row in rows]),
        _Column("matrices", "number", [row[1] for row in rows]),
        _Column(before, "number", [size(row[2]) for row in rows]),
        _Column(after, "number", [size(row[3]) for row in rows]),
        _Column("of the size", "number", [percent(row[3] / row[2]) if row[2] else None for row in rows]),
        chosen=[row[1] is None for row in rows],
    )


def quality_table(found: EndToEnd, words: Wording) -> Markup:
    distance = f"{significant(found.kl_divergence)} nats"
    rows: list[tuple[Markup, str, str | None, str | None]] = [
        (_explained(words.tokens, "how much text the figures rest on"), f"{found.tokens:,}", None, None),
        (_explained("KL divergence", "how far a token's probabilities moved; 0 is not at all"), distance, None, None),
        (_explained("same first choice", "of both models"), percent(found.top1_agreement), None, None),
    ]
    for name, value, what in (
        ("perplexity", found.perplexity, "how surprising real text is; lower is better"),
        ("BLEU", found.bleu, "likeness to translations by people; higher is better"),
    ):
        if value:
            rows.append((_explained(name, what), f"{value.after:.2f}", f"{value.before:.2f}", change(value, 2)))
    original, compressed = words.models
    titles = ("figure", compressed, original, "change")
    return _table(*map(_Column, titles, ("name", "number", "number", "number"), zip(*rows)))


def states_table(found: States, words: Wording) -> Markup:
    rows = [
        (_explained(words.tokens, "how much text the figures rest on"), f"{found.tokens:,}"),
        (_explained("error", "share of the squares of what the encoder gives"), percent(found.error)),
        (_explained("cosine", "of the angle to it, in the mean; 1 is the same direction"), f"{found.cosine:.5f}"),
    ]
    return _table(_Column("figure", "name", [row[0] for row in rows]), _Column("", "number", [row[1] for row in rows]))


def lines_table(lines: Sequence[ChangedLine]) -> Markup:
    return _table(
        _Column("line", "number", [f"{row.line:,}" for row in lines]),
        _Column("tokens", "number", [f"{row.tokens:,}" for row in lines]),
        _Column("KL divergence", "number", [significant(row.kl_divergence) for row in lines]),
        _Column("same first choice", "number", [percent(row.top1_agreement) for row in lines]),
        _Column("source", "prose", [row.source for row in lines]),
    )


def speed_table(rows: Sequence[Speed]) -> Markup:
    def rates(values: Sequence[float | None]) -> list[str | None]:
        return [None if value is None else significant(value) for value in values]

    def ratios(values: Sequence[float | None]) -> list[str | None]:
        return [None if other is None else f"{row.compressed / other:.2f} ×" for row, other in zip(rows, values)]

    float32, int8 = [row.float32 for row in rows], [row.int8 for row in rows]
    return _table(
        _Column("setting", "", [row.setting for row in rows]),
        _Column("float32", "number", rates(float32)),
        _Column("int8", "number", rates(int8)),
        _Column("compressed", "number", rates([row.compressed for row in rows])),
        _Column("to float32", "number", ratios(float32)),
        _Column("to int8", "number", ratios(int8)),
    )


def layers_table(layers: Sequence[Layer], words: Wording) -> Markup:
    measured = any(layer.snr_db is not None for layer in layers)
    before, after = words.sides
    return _table(
        _Column("no.", "number", [f"{index + 1}" for index in range(len(layers))]),
        _Column("layer", "name", [_layer_name(layer) for layer in layers]),
        _Column("shape", "number", [" × ".join(map(str, layer.shape)) for layer in layers]),
        _Column("type", "number", [f"{layer.type_before} → {layer.type_after}" for layer in layers]),
        _Column(before, "number", [size(layer.bytes_before) for layer in layers]),
        _Column(after, "number", [size(layer.bytes_after) for layer in layers]),
        _Column("SNR, dB", "number", [_snr(layer) if measured else None for layer in layers]),
        _Column("output error", "number", [_known_percent(layer.output_error) for layer in layers]),
        _Column("method", "", [layer.method or None for layer in layers]),
        _Column("why", "prose", [layer.reason or None for layer in layers]),
    )


def inputs_table(layers: Sequence[Layer]) -> Markup:
    """Short headings: it has to fit a phone."""
    found = [(index, layer, layer.inputs) for index, layer in enumerate(layers) if layer.inputs]
    return _table(
        _Column("no.", "number", [f"{index + 1}" for index, _, _ in found]),
        _Column("layer", "name", [_with_ranges(layer.name, inputs) for _, layer, inputs in found]),
        _Column("row", "number", [decibels(inputs.dynamic_error) for _, _, inputs in found]),
        _Column("mse", "number", [decibels(inputs.mse.error) for _, _, inputs in found]),
        _Column("KL", "number", [decibels(inputs.kl.error) for _, _, inputs in found]),
    )


def outliers_table(layers: Sequence[Layer]) -> Markup:
    found = [(index, layer) for index, layer in enumerate(layers) if layer.outliers]
    channels = [", ".join(f"{one.channel} ({one.ratio:.1f} ×)" for one in layer.outliers) for _, layer in found]
    return _table(
        _Column("no.", "number", [f"{index + 1}" for index, _ in found]),
        _Column("layer", "name", [_code(layer.name) for _, layer in found]),
        _Column("channel (times the median)", "prose", channels),
    )


def pruned_table(rows: Sequence[Pruned]) -> Markup:
    errors: list[Change | None] = [row.error for row in rows]
    return _table(
        _Column("what", "", [row.what for row in rows]),
        _Column("layer", "name", [_code(row.layer) for row in rows]),
        _Column("removed", "number", [f"{row.removed:,} of {row.total:,}" for row in rows]),
        _Column("share", "number", [percent(row.removed / row.total) for row in rows]),
        _Column("error, cut", "number", [_known_percent(error.before) if error else None for error in errors]),
        _Column("error, refitted", "number", [_known_percent(error.after) if error else None for error in errors]),
    )


def pareto_table(points: Sequence[ParetoPoint]) -> Markup:
    ordered = sorted(points, key=lambda point: (point.bytes, point.error))
    return _table(
        _Column("choice", "prose", [point.label for point in ordered]),
        _Column("size", "number", [size(point.bytes) for point in ordered]),
        _Column("weighted error", "number", [significant(point.error) for point in ordered]),
        _Column("", "", ["taken" if point.chosen else "" for point in ordered]),
        chosen=[point.chosen for point in ordered],
    )


def calibration_table(found: CalibrationText) -> Markup:
    return _table(
        _Column("files", "name", [", ".join(found.files)]),
        _Column("lines", "number", [f"{found.lines:,}"]),
        _Column("tokens", "number", [f"{found.tokens:,}"]),
        _Column("of them held out", "number", [f"{found.held_out_tokens:,}"]),
    )


def run_table(report: CompressionReport) -> Markup:
    versions = ", ".join(f"{name} {report.versions[name]}" for name in sorted(report.versions))
    rows = [
        ("versions", versions),
        ("seed", None if report.seed is None else f"{report.seed}"),
        ("machine", "; ".join(report.machine)),
    ]
    known = [(name, value) for name, value in rows if value]
    return _table(_Column("what", "", [row[0] for row in known]), _Column("value", "prose", [row[1] for row in known]))


def _layer_name(layer: Layer) -> Markup:
    name = _code(layer.name)
    if layer.parts in ((), (layer.name,), (f"{layer.name}.weight",)):
        return name
    # What all parts begin with is said once; a lone part is shown whole.
    words = [part.split(".") for part in layer.parts]
    shared = len(os.path.commonprefix(words)) if len(words) > 1 else 0
    parts = ", ".join(".".join(part[shared:]).removesuffix(".weight") for part in words)
    return join(name, tag("div", "made of ", parts, class_="parts"))


def _with_ranges(name: str, inputs: InputRanges) -> Markup:
    mse, kl, absmax = (significant(limit) for limit in (inputs.mse.limit, inputs.kl.limit, inputs.absmax))
    return join(_code(name), tag("div", f"T = {mse} (mse), {kl} (KL) of {absmax}", class_="parts"))


def _explained(name: str, what: str) -> Markup:
    return join(name, tag("div", what, class_="parts"))


def _code(name: str) -> Markup:
    """A name that may break after its dots."""
    first, *rest = name.split(".")
    return tag("code", first, *(join(".", tag("wbr"), word) for word in rest))


def _snr(layer: Layer) -> str | None:
    if not layer.comparable:
        return None
    return "exact" if layer.snr_db is None else f"{layer.snr_db:.1f}"


def _known_percent(share: float | None) -> str | None:
    return None if share is None else percent(share)

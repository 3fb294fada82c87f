"""Numbers and the verdict in words."""

from __future__ import annotations

import math
from typing import Iterable

from pyengine.quantize.report.data import Change, CompressionReport, EndToEnd, Layer
from pyengine.quantize.report.wording import Wording, wording

__all__ = ["change", "decibels", "percent", "short_name", "significant", "size", "span", "verdict"]

_LABEL = 22  # characters of a layer's name beside a plot
_MINUS = "\N{MINUS SIGN}"


def size(count: float) -> str:
    """Bytes, to three digits, in units of 1000."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.3g} {units[0]}"


def significant(value: float, digits: int = 3) -> str:
    """To some digits, with trailing zeros; no exponent between 0.0001 and a million."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}" if value else "0"


def percent(share: float) -> str:
    """A share of one in per cent, to three digits; more for what is almost all."""
    return f"{100 * share:.2f} %" if share >= 0.1 else f"{significant(100 * share)} %"


def decibels(share: float) -> str:
    """A share of a power, without the unit."""
    return f"{round(10 * math.log10(share))}".replace("-", _MINUS) if share else "exact"


def change(value: Change, digits: int) -> str:
    """How much was added to the figures as shown, with its sign."""
    moved = round(value.after, digits) - round(value.before, digits)
    return f"{moved:+.{digits}f}".replace("-", _MINUS) if round(moved, digits) else "no change"


def span(values: Iterable[float]) -> str:
    """From the smallest to the largest, to two decimals."""
    low, high = (f"{limit:.2f}" for limit in _limits(values))
    return low if low == high else f"{low} to {high}"


def short_name(index: int, name: str) -> str:
    """For plots: the name with all words but the last abbreviated, and the number in the table."""
    *first, last = name.removesuffix(".weight").split(".")
    text = ".".join([*(word[:3] for word in first), last])
    return f"{text if len(text) <= _LABEL else '…' + text[1 - _LABEL :]} {index + 1}"


def verdict(report: CompressionReport) -> list[str]:
    """Sentences: size, quality, speed, as far as they were measured."""
    before, after, words = report.bytes_before, report.bytes_after, wording(report)
    sentences = [
        f"{words.subject} takes {size(after)} instead of {size(before)}: "
        f"{percent(after / before)} of the size, or {before / after:.2f} to 1."
    ]
    if report.end_to_end:
        sentences += _quality(report.end_to_end, words)
    if report.states:
        states = report.states
        sentences.append(
            f"Over {states.tokens:,} {words.tokens} what its encoder gives differs from {words.whose} in "
            f"{percent(states.error)} of the squares, with a mean cosine of {states.cosine:.5f}."
        )
    parts = []
    for name in ("float32", "int8"):
        pairs = [(row.compressed, getattr(row, name)) for row in report.speed]
        ratios = [compressed / other for compressed, other in pairs if other is not None]
        if ratios:
            parts.append(f"{span(ratios)} times the speed of {name}")
    if parts:
        sentences.append(f"It runs at {' and '.join(parts)}.")
    worst = _worst(report.layers)
    if worst:
        name, error = worst
        sentences.append(f"{words.worst} {name}, with an output error of {percent(error)}.")
    return sentences


def _quality(found: EndToEnd, words: Wording) -> list[str]:
    sentences = [
        f"Over {found.tokens:,} {words.tokens} its predictions are {significant(found.kl_divergence)} nats a token "
        f"from {words.whose} (KL divergence), and both prefer the same token in {percent(found.top1_agreement)} "
        "of the cases."
    ]
    for name, value in (("BLEU", found.bleu), ("Perplexity", found.perplexity)):
        if value:
            before, after = f"{value.before:.2f}", f"{value.after:.2f}"
            moved = f"goes from {before} to {after} ({change(value, 2)})" if before != after else f"stays at {before}"
            sentences.append(f"{name} {moved}.")
    return sentences


def _worst(layers: Iterable[Layer]) -> tuple[str, float] | None:
    measured = [(layer.name, layer.output_error) for layer in layers if layer.output_error is not None]
    worst = max(measured, key=lambda pair: pair[1], default=None)
    return worst if worst and worst[1] > 0 else None


def _limits(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)

"""What a compression did and what it cost, or how two models differ: the content of ``report.json``.

A ``CompressionReport`` is all that the page is made of. Whatever was not measured is None or empty, and is left
out of the page. ``to_json`` and ``from_json`` are inverses.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Mapping

from pyengine.errors import ModelFileError, PyengineError
from pyengine.formats.strict_json import Fields, shorten

__all__ = [
    "CalibrationText",
    "Change",
    "ChangedLine",
    "CompressionReport",
    "EndToEnd",
    "FORMAT",
    "Histogram",
    "InputRanges",
    "Layer",
    "Outlier",
    "ParetoPoint",
    "Pruned",
    "Speed",
    "States",
    "StaticRange",
]

FORMAT = "pyengine-report"
VERSION = 1
QUANTILES = 101


def _not_negative(record: Any, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}: expected a number from 0, found {value}")


def _share(record: Any, name: str) -> None:
    value = getattr(record, name)
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a share from 0 to 1, found {value}")


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    before: float
    after: float


@dataclass(frozen=True)
class CalibrationText:
    """The text whose statistics steered the methods; ``held_out_tokens`` of it were only measured on."""

    files: tuple[str, ...]
    lines: int
    tokens: int
    held_out_tokens: int

    def __post_init__(self) -> None:
        _not_negative(self, "lines", "tokens", "held_out_tokens")


@dataclass(frozen=True)
class Histogram:
    """Of the original weights: counts[i] lie in [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or not self.counts:
            found = f"{len(self.edges)} edges for {len(self.counts)} counts"
            raise ValueError(f"edges: expected one more than counts, found {found}")
        if any(high <= low for low, high in zip(self.edges, self.edges[1:])):
            raise ValueError("edges: expected ascending numbers")
        if min(self.counts) < 0:
            raise ValueError(f"counts: expected numbers from 0, found {min(self.counts)}")


@dataclass(frozen=True)
class Outlier:
    """An input channel, and its largest magnitude as a multiple of the median over channels."""

    channel: int
    ratio: float

    def __post_init__(self) -> None:
        _not_negative(self, "channel", "ratio")


@dataclass(frozen=True)
class StaticRange:
    """All inputs x of a layer rounded to int8 by one scale, ``limit`` / 127: what that changes in its output.

    ``error``: the sum over inputs of |W x' - W x|^2 by that of |W x|^2, with W in float32.
    """

    limit: float
    error: float

    def __post_init__(self) -> None:
        _not_negative(self, "limit", "error")


@dataclass(frozen=True)
class InputRanges:
    """The largest |x| among a layer's inputs, static ranges (see ``static_ranges``), and the error with a scale a row.

    Errors are those of rows that had no part in choosing the ranges.
    """

    absmax: float
    dynamic_error: float
    mse: StaticRange
    kl: StaticRange

    def __post_init__(self) -> None:
        _not_negative(self, "absmax", "dynamic_error")


@dataclass(frozen=True)
class Layer:
    """A stored matrix, made of the canonical tensors ``parts``.

    ``snr_db``: 10 log10(sum W^2 / sum (W - W')^2), None if nothing was rounded. ``output_error``: on held-out
    inputs x, sum |W x - W' x|^2 / sum |W x|^2. ``method`` and ``reason``: how it was rounded, and why so. ``inputs``:
    what rounding x costs.
    ``comparable``: whether W and W' are the same matrix; if not (something was pruned) neither figure is known.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    type_before: str
    type_after: str
    bytes_before: int
    bytes_after: int
    snr_db: float | None
    output_error: float | None = None
    outliers: tuple[Outlier, ...] = ()
    histogram: Histogram | None = None
    method: str = ""
    reason: str = ""
    comparable: bool = True
    inputs: InputRanges | None = None

    def __post_init__(self) -> None:
        _not_negative(self, "bytes_before", "bytes_after", "output_error")


@dataclass(frozen=True)
class Pruned:
    """``removed`` of ``total`` units (``what``: heads, neurons, weights) are gone from ``layer``.

    ``error``: as ``Layer.output_error``, before and after what is left was fitted again.
    """

    what: str
    layer: str
    removed: int
    total: int
    error: Change | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.removed <= self.total or not self.total:
            raise ValueError(f"removed: expected an integer from 0 to total, found {self.removed} of {self.total}")


@dataclass(frozen=True)
class ChangedLine:
    """A line of the text, counted from 1: means over the ``tokens`` of its target, as in ``EndToEnd``.

    ``source``: what begins the line.
    """

    line: int
    source: str
    tokens: int
    kl_divergence: float
    top1_agreement: float

    def __post_init__(self) -> None:
        _share(self, "top1_agreement")


@dataclass(frozen=True)
class EndToEnd:
    """The compressed model against the original, on ``tokens`` held-out tokens under teacher forcing.

    ``kl_divergence``: mean of sum_v p_v log(p_v / q_v) a token, in nats, with p of the original.
    ``top1_agreement``: share of the tokens for which both find the same one most probable.
    ``kl_quantiles``: the divergence that 0, 1, ..., 100 % of the tokens stay within; ``lines``: those of the text that
    changed most, the worst first.
    """

    tokens: int
    kl_divergence: float
    top1_agreement: float
    perplexity: Change | None = None
    bleu: Change | None = None
    kl_quantiles: tuple[float, ...] = ()
    lines: tuple[ChangedLine, ...] = ()

    def __post_init__(self) -> None:
        _not_negative(self, "tokens")
        _share(self, "top1_agreement")
        if self.kl_quantiles and len(self.kl_quantiles) != QUANTILES:
            raise ValueError(f"kl_quantiles: expected {QUANTILES} numbers, found {len(self.kl_quantiles)}")
        if any(high < low for low, high in zip(self.kl_quantiles, self.kl_quantiles[1:])):
            raise ValueError("kl_quantiles: expected numbers that do not descend")


@dataclass(frozen=True)
class States:
    """What an encoder without a decoder gives for ``tokens`` of text, y, against the original's.

    ``error``: sum |y' - y|^2 / sum |y|^2; ``cosine``: the mean of that of the angle between y' and y.
    """

    tokens: int
    error: float
    cosine: float

    def __post_init__(self) -> None:
        _not_negative(self, "tokens", "error")


@dataclass(frozen=True)
class Speed:
    """Tokens a second in one setting: in float32, in plain int8, and of the compressed model."""

    setting: str
    float32: float | None
    int8: float | None
    compressed: float

    def __post_init__(self) -> None:
        for name in ("float32", "int8", "compressed"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}: expected tokens a second above 0, found {value}")


@dataclass(frozen=True)
class ParetoPoint:
    """One choice of types for all layers: the model's size, its weighted error, and whether it was taken."""

    bytes: int
    error: float
    label: str
    chosen: bool

    def __post_init__(self) -> None:
        _not_negative(self, "bytes", "error")


@dataclass(frozen=True)
class CompressionReport:
    """All of it: ``end_to_end`` of models that write, ``states`` of encoders alone; ``notes`` are warnings and remarks.

    ``models``: where two model directories were compared, their names; "before" and "original" are then the first one.
    """

    command: str
    versions: Mapping[str, str]
    machine: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    seed: int | None = None
    calibration: CalibrationText | None = None
    layers: tuple[Layer, ...] = ()
    pruned: tuple[Pruned, ...] = ()
    end_to_end: EndToEnd | None = None
    states: States | None = None
    speed: tuple[Speed, ...] = ()
    pareto: tuple[ParetoPoint, ...] = ()
    notes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.models) not in (0, 2):
            raise ValueError(f"models: expected none or two, found {len(self.models)}")
        for name in ("bytes_before", "bytes_after"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected an integer from 1, found {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal report; NumPy's numbers become plain ones."""
        return {"format": FORMAT, "version": VERSION, **_plain(self)}

    @classmethod
    def from_json(
        cls, data: object, where: str, error: type[PyengineError] = ModelFileError
    ) -> CompressionReport:
        """Read ``to_json``'s form; ``error`` for an unknown, missing, mistyped or impossible field."""
        fields = Fields(data, where, error)
        fields.choice("format", (FORMAT,))
        fields.choice("version", (VERSION,))
        report: CompressionReport = _read(cls, fields.remaining(), where, error)
        return report


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value


@lru_cache
def _kinds(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _read(kind: Any, value: Any, where: str, error: type[PyengineError]) -> Any:
    """``value`` as ``kind``: a dataclass of this file, a field's annotation, or a part of one."""
    if dataclasses.is_dataclass(kind):
        fields = Fields(value, where, error)
        found = {
            name: _read(inner, fields.take(name), f"{where}: {name}", error)
            for name, inner in _kinds(typing.cast(type, kind)).items()
        }
        fields.finish()
        try:
            return typing.cast(type, kind)(**found)
        except ValueError as exc:
            raise error(f"{where}: {exc}") from None
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _read(inner[0], value, where, error)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], one, f"{where}[{index}]", error) for index, one in enumerate(value))
    if origin is not None and origin is not tuple and isinstance(value, dict):
        return {name: _read(inner[1], one, f"{where}[{name!r}]", error) for name, one in value.items()}
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    expected = {float: "a finite number", int: "an integer", str: "a string", bool: "true or false"}
    raise error(f"{where}: expected {expected.get(kind, 'a list or an object')}, found {shorten(value)}")

"""The plots of a report, each an SVG that stands in the page."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Callable, Literal, Sequence

from pyengine.errors import OptionError
from pyengine.quantize.report.data import Histogram, Layer, ParetoPoint
from pyengine.quantize.report.figure import plot
from pyengine.quantize.report.markup import Markup, shown
from pyengine.quantize.report.svg import COLOURS
from pyengine.quantize.report.words import short_name, size
from pyengine.version import DISTRIBUTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "divergence_plot",
    "errors_plot",
    "histogram_plot",
    "outliers_plot",
    "pareto_plot",
    "require_matplotlib",
    "sizes_plot",
    "snr_plot",
]

_, _, _BEFORE, _AFTER, _MARK = COLOURS
_TOLD_APART = 1e6  # largest divergence over the smallest that is drawn as it is
_WIDE_RANGE = 20  # largest over smallest from which an axis is logarithmic


def require_matplotlib() -> None:
    """Raise OptionError, saying what to install, where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        wanted = f"pip install '{DISTRIBUTION}[report]'"
        raise OptionError(f"a report needs matplotlib, which is missing: {wanted}") from None


def sizes_plot(layers: Sequence[Layer], names: tuple[str, str]) -> Markup:
    """A wide bar for each layer's bytes before, a narrow one in it for those after; ``names`` are for the two."""
    before, after = names

    def draw(axes: Axes) -> None:
        places = range(len(layers))
        axes.barh(places, [layer.bytes_before for layer in layers], height=0.8, color=_BEFORE, label=before)
        axes.barh(places, [layer.bytes_after for layer in layers], height=0.4, color=_AFTER, label=after)
        axes.xaxis.set_major_formatter(lambda value, _: size(value))
        axes.locator_params(axis="x", nbins=4)
        _name_rows(axes, layers)
        axes.figure.legend(loc="outside upper right", ncols=2, frameon=False)

    return plot("sizes", f"Bytes of each layer: {before}, {after}", _rows_height(layers), draw)


def divergence_plot(quantiles: Sequence[float]) -> Markup | None:
    """The divergences of all tokens in ascending order; None if there are none, or if none is above zero."""
    if not quantiles or quantiles[-1] <= 0:
        return None
    low = max(quantiles[-1] / _TOLD_APART, min(value for value in quantiles if value > 0))

    def draw(axes: Axes) -> None:
        shares = [index / (len(quantiles) - 1) for index in range(len(quantiles))]
        heights = [max(value, low) for value in quantiles]
        axes.plot(shares, heights, color=_AFTER, zorder=3)
        axes.set_yscale("log")
        axes.set_ylim(low / 2, 2 * quantiles[-1])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: _percent_tick(value))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="share of the tokens", ylabel="KL divergence at most, nats")

    return plot("divergence", "KL divergence of the tokens, in ascending order", 3.2, draw)


def snr_plot(layers: Sequence[Layer]) -> Markup | None:
    """A dot for the SNR of each layer that was rounded; None if none was."""
    return _dots("snr", "SNR of the weights, dB", layers, [layer.snr_db for layer in layers], "{:g}".format)


def errors_plot(layers: Sequence[Layer]) -> Markup | None:
    """A dot for the output error of each layer that has one; None if none has, or all are 0."""
    if not any(layer.output_error for layer in layers):
        return None
    return _dots("errors", "Error of the outputs", layers, [layer.output_error for layer in layers], _percent_tick)


def outliers_plot(layers: Sequence[Layer]) -> Markup | None:
    """For each layer, a dot for each outlier channel; None if there are none."""
    found = [layer for layer in layers if layer.outliers]
    if not found:
        return None

    def draw(axes: Axes) -> None:
        points = [(one.ratio, row) for row, layer in enumerate(found) for one in layer.outliers]
        ratios, rows = [ratio for ratio, _ in points], [row for _, row in points]
        axes.scatter(ratios, rows, s=16, color=_MARK, alpha=0.7, linewidths=0)
        _scale(axes, "x", ratios, "{:g}".format)
        axes.set_xlabel("largest magnitude / median over channels")
        _name_rows(axes, found, [layers.index(layer) for layer in found])

    return plot("outliers", "Outlier channels of each layer's inputs", _rows_height(found), draw)


def histogram_plot(index: int, layer: Layer, histogram: Histogram) -> Markup:
    """The weights of one layer; heights are logarithmic, so that a few far out can be seen."""

    def draw(axes: Axes) -> None:
        axes.stairs(histogram.counts, histogram.edges, fill=True, color=_AFTER)
        if any(histogram.counts):
            axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(0.5, 2 * max(1, *histogram.counts))
        axes.set_yticks([])
        axes.minorticks_off()
        axes.spines["left"].set_visible(False)
        axes.grid(False)
        axes.locator_params(axis="x", nbins=3)
        axes.set_title(shown(short_name(index, layer.name)), fontsize=8)

    return plot(f"weights{index}", f"Histogram of the weights of {layer.name}", 1.3, draw, width=2.2)


def pareto_plot(points: Sequence[ParetoPoint]) -> Markup:
    """Size against error; a line through the points that no other beats in both, a diamond on the chosen one."""

    def draw(axes: Axes) -> None:
        ordered = sorted(points, key=lambda point: (point.bytes, point.error))
        lowest = accumulate((point.error for point in ordered), min)
        below = [float("inf"), *lowest]
        front = [one for one, least in zip(ordered, below) if one.error < least]
        axes.plot([one.bytes for one in front], [one.error for one in front], color=_BEFORE, linewidth=1.2)
        axes.scatter([one.bytes for one in points], [one.error for one in points], s=18, color=_AFTER, zorder=3)
        for one in points:
            if one.chosen:
                axes.scatter([one.bytes], [one.error], s=70, marker="D", color=_MARK, zorder=4)
                place = (one.bytes, one.error)
                axes.annotate(shown(one.label), place, xytext=(8, 8), textcoords="offset points")
        axes.margins(0.12)
        _scale(axes, "y", [one.error for one in points], "{:g}".format)
        axes.xaxis.set_major_formatter(lambda value, _: size(value))
        axes.locator_params(axis="x", nbins=4)
        axes.set(xlabel="size of the model", ylabel="weighted error")

    return plot("pareto", "Size against error of all choices", 3.2, draw)


def _dots(
    name: str, label: str, layers: Sequence[Layer], values: Sequence[float | None], tick: Callable[[float], str]
) -> Markup | None:
    found = [(value, row) for row, value in enumerate(values) if value is not None]
    if not found:
        return None

    def draw(axes: Axes) -> None:
        axes.scatter([value for value, _ in found], [row for _, row in found], s=26, color=_AFTER, zorder=3)
        _scale(axes, "x", [value for value, _ in found], tick)
        axes.set_xlabel(label)
        _name_rows(axes, layers)

    return plot(name, f"{label}, of each layer", _rows_height(layers), draw)


def _percent_tick(share: float) -> str:
    return f"{100 * share:g} %"


def _scale(axes: Axes, axis: Literal["x", "y"], values: Sequence[float], tick: Callable[[float], str]) -> None:
    """A logarithmic axis for a wide range of positive values, else a linear one; few ticks, written by ``tick``."""
    along = axes.xaxis if axis == "x" else axes.yaxis
    if min(values) > 0 and max(values) > _WIDE_RANGE * min(values):
        axes.set(**{f"{axis}scale": "log"})
        axes.minorticks_off()
    else:
        axes.locator_params(axis=axis, nbins=4)
    along.set_major_formatter(lambda value, _: tick(value))


def _name_rows(axes: Axes, layers: Sequence[Layer], numbers: Sequence[int] | None = None) -> None:
    """The layers' names at y = 0, 1, ..., from top to bottom."""
    places = range(len(layers))
    names = [shown(short_name(number, layer.name)) for number, layer in zip(numbers or places, layers)]
    axes.set_yticks(places, names)
    axes.set_ylim(len(layers) - 0.5, -0.5)


def _rows_height(layers: Sequence[Layer]) -> float:
    return 0.75 + 0.19 * len(layers)

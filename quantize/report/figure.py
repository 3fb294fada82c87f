"""One drawing of matplotlib's as an SVG that stands in a page.

The same drawing gives the same bytes: nothing is dated, ids come from a fixed salt, and no setting of the user's
own counts.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Callable

from pyengine.quantize.report.markup import Markup, shown
from pyengine.quantize.report.svg import COLOURS, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

_INK, _LINE, *_ = COLOURS
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "pyengine",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}
_WIDTH = 4.6  # inches: scaled to a phone, its letters can still be read


def plot(name: str, label: str, height: float, draw: Callable[[Axes], None], width: float = _WIDTH) -> Markup:
    """What ``draw`` puts on the only axes of a figure of so many inches."""
    from matplotlib import style
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with style.context(["default", _SETTINGS]), warnings.catch_warnings():
        # The text is measured in matplotlib's font and shown in the reader's, which may have more letters.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return inline_svg(file.getvalue(), f"{name}-", shown(label))

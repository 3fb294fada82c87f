"""What a page says where a compression and a comparison of two models differ."""

from __future__ import annotations

from dataclasses import dataclass

from pyengine.quantize.report.data import CompressionReport

__all__ = ["Wording", "wording"]


@dataclass(frozen=True)
class Wording:
    """Names of the two models, the first of which is the measure, and the sentences under headings.

    ``sides`` are for sizes, ``models`` for figures; ``subject`` begins a sentence about the second one, and ``whose``
    is what belongs to the first.
    """

    title: str
    sides: tuple[str, str]
    models: tuple[str, str]
    subject: str
    whose: str
    tokens: str
    worst: str
    sizes: str
    quality: str
    layers: str
    error: str
    origin: str


_COMPRESSION = Wording(
    title="Compression report",
    sides=("before", "after"),
    models=("original", "compressed"),
    subject="The compressed model",
    whose="the original's",
    tokens="held-out tokens",
    worst="The layer that changed most is",
    sizes="How many bytes the weights take, by the types in which they were and are stored.",
    quality="Both models get the same text, lines that were held out from calibration, and their answers are compared.",
    layers="A layer is a matrix of weights; the table says how each one is stored and what that changed.",
    error="The output error is what counts: the share of a layer's output (its sum of squares, on held-out text) that "
    "is now wrong.",
    origin="How it was made",
)
_COMPARISON = Wording(
    title="Comparison of two models",
    sides=("A", "B"),
    models=("A", "B"),
    subject="Model B",
    whose="those of A",
    tokens="tokens",
    worst="Of the layers that can be compared, the one that differs most is",
    sizes="How many bytes the matrices take, by their types in A and in B, and the whole directories.",
    quality="Both models get the same text, and B's answers are compared with those of A.",
    layers="A layer is a matrix of weights; the table says how each one is stored in A and in B, and how far B's is "
    "from A's. Where scales were moved between layers (SmoothQuant, AWQ, equalization), matrices differ that do the "
    "same work: there the figures of layers mislead, and those of quality count.",
    error="The output error is the share of a layer's output (its sum of squares, on the inputs that the text gives it "
    "in A, computed in float32) in which B's weights differ.",
    origin="How it was measured",
)


def wording(report: CompressionReport) -> Wording:
    """The words for what was done: two models compared, or one made of the other."""
    return _COMPARISON if report.models else _COMPRESSION

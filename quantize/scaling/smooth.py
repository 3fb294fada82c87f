"""SmoothQuant: outliers of the inputs of a linear layer moved into its weights, channel by channel.

    s_j = max|x_j|^a / max_n |W[n, j]|^(1-a)           y = (x / s) (W diag(s))^T

Xiao, Lin, Seznec, Wu, Demouth and Han (arXiv:2211.10438). ``a`` is the one, of a few, whose output is nearest when both
sides are rounded: inputs to int8 with a scale for each row, as at run time, and weights by the given scheme (absmax).
Of layers with the same input W is all of them, stacked. fold.py applies the scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyengine.quantize.rounding.grid import round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.schemes import Scheme, quantize_rows

__all__ = ["ALPHAS", "ScaleSearch", "search_smoothing", "smoothing_scales"]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class ScaleSearch:
    """Scales float32 [K] > 0, the exponent they are of (None: all 1, nothing was better), output errors.

    An error is the sum over inputs of |y' - y|^2 by that of |y|^2; ``error_before`` is that without scales.
    """

    scales: np.ndarray
    alpha: float | None
    error: float
    error_before: float


def smoothing_scales(absmax_inputs: np.ndarray, absmax_weights: np.ndarray, alpha: float) -> np.ndarray:
    """s float32 [K] from the largest magnitude of each input and weight column [K]; 1 where one of them is 0."""
    used = (absmax_inputs > 0) & (absmax_weights > 0)
    inputs = np.where(used, absmax_inputs, 1).astype(np.float64)
    weights = np.where(used, absmax_weights, 1).astype(np.float64)
    return (inputs**alpha / weights ** (1 - alpha)).astype(np.float32)


def search_smoothing(
    matrix: np.ndarray,
    rows: np.ndarray,
    absmax_inputs: np.ndarray,
    absmax_weights: np.ndarray,
    scheme: Scheme,
    *,
    alphas: tuple[float, ...] = ALPHAS,
) -> ScaleSearch:
    """The scales of W float32 [N, K] with the least error on inputs ``rows`` float32 [R, K]; ties to the earlier.

    Columns with the same largest magnitudes [K] of inputs and weights have the same scale.
    """
    exact = rows @ matrix.T
    power = float(np.square(exact, dtype=np.float64).sum())

    def error_of(scales: np.ndarray) -> float:
        scaled = matrix * scales
        inputs = rows / scales
        weights = round_to_grid(scaled, choose_grid(scaled, scheme, method="absmax"))
        difference = quantize_rows(inputs).dequantize(len(scales)) @ weights.dequantize(len(scales)).T - exact
        return float(np.square(difference, dtype=np.float64).sum()) / power if power > 0 else 0.0

    scales = np.ones(len(absmax_weights), np.float32)
    before = error_of(scales)
    best = ScaleSearch(scales, None, before, before)
    for alpha in alphas:
        scales = smoothing_scales(absmax_inputs, absmax_weights, alpha)
        error = error_of(scales)
        if error < best.error:
            best = ScaleSearch(scales, alpha, error, before)
    return best

"""AWQ: the inputs that are large on average get finer weights.

    s_j = m_j^a / sqrt(max_j m_j^a  min_j m_j^a)       m_j = E|x_j|
    E(a) = tr(dW H dW^T) / tr(W H W^T)      dW = Q(W diag(s)) diag(1/s) - W,  H the Gram matrix of the inputs

Lin, Tang, Tang, Yang, Xiao and Han (arXiv:2306.00978). ``a`` is that of 0, 0.05, ..., 1 with the least E: the exact
output error on all inputs, where only weights are rounded (to absmax grids). fold.py applies the scales. The second
half of the method, a clip of each group by output error, is ``clipped_grid``.
"""

from __future__ import annotations

import numpy as np

from pyengine.errors import OptionError
from pyengine.quantize.measuring.distortion import output_power
from pyengine.quantize.rounding.grid import Grid, round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.schemes import Scheme
from pyengine.quantize.scaling.smooth import ScaleSearch

__all__ = ["ALPHAS", "awq_scales", "clipped_grid", "search_awq"]

ALPHAS = tuple(step / 20 for step in range(1, 21))


def awq_scales(mean_abs: np.ndarray, alpha: float) -> np.ndarray:
    """s float32 [K] from E|x_j| [K]; inputs that were never seen count as the smallest that was, all 1 if none was."""
    seen = mean_abs > 0
    if not seen.any():
        return np.ones(len(mean_abs), np.float32)
    powers = np.where(seen, mean_abs, mean_abs[seen].min()).astype(np.float64) ** alpha
    scales: np.ndarray = (powers / np.sqrt(powers.max() * powers.min())).astype(np.float32)
    return scales


def search_awq(
    matrix: np.ndarray,
    mean_abs: np.ndarray,
    gram: np.ndarray,
    scheme: Scheme,
    *,
    alphas: tuple[float, ...] = ALPHAS,
) -> ScaleSearch:
    """The scales of W float32 [N, K] (all consumers of x, stacked) with the least output error; ties to the earlier."""
    power = float(output_power(matrix, gram).sum())

    def error_of(scales: np.ndarray) -> float:
        scaled = matrix * scales
        rounded = round_to_grid(scaled, choose_grid(scaled, scheme, method="absmax")).dequantize(len(scales))
        noise = float(output_power(rounded / scales - matrix, gram).sum())
        return noise / power if power > 0 else 0.0

    scales = np.ones(matrix.shape[1], np.float32)
    before = error_of(scales)
    best = ScaleSearch(scales, None, before, before)
    for alpha in alphas:
        scales = awq_scales(mean_abs, alpha)
        error = error_of(scales)
        if error < best.error:
            best = ScaleSearch(scales, alpha, error, before)
    return best


def clipped_grid(matrix: np.ndarray, scheme: Scheme, gram: np.ndarray) -> Grid:
    """The grid whose groups are clipped to where the output's error of each group by itself is least.

    ``gram`` is that of the inputs as W float32 [N, K] sees them: [j, k] divided by s_j s_k if scales were folded.
    Raises OptionError for int8 rows, whose only group is the whole row.
    """
    if not scheme.group:
        raise OptionError("clip: expected int4 groups, found int8 rows")
    return choose_grid(matrix, scheme, method="mse", weights=gram)

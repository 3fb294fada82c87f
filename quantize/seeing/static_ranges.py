"""One scale for all inputs of a layer, found beforehand, against a scale for every row: what does it cost?

The engine rounds each row of activations by the largest value in it (dynamic). A static scale is T / 127 for every
row, and values beyond the range T are clipped:

    absmax       T = max |x|
    percentile   T = the quantile 0.9999 of |x|
    mse          T with the least sum of squares of what rounding and clipping change in x, over a grid
    kl           T of the least Kullback-Leibler divergence of a histogram of |x|, see ``ranges``

Errors are those of what the layer gives, with its weights in float32: with G = W^T W the sum over inputs of
|W (x' - x)|^2 is the sum of (x' - x)^T G (x' - x), so that no output is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import numpy as np

from pyengine.quantize.measuring.distortion import output_error
from pyengine.quantize.rounding.grid import round_to_grid, rows_grid
from pyengine.quantize.rounding.ranges import METHODS, choose_grid, kl_threshold
from pyengine.quantize.rounding.schemes import Scheme, quantize_rows

__all__ = ["STATIC", "InputErrors", "input_errors", "sampled_errors", "static_ranges"]

STATIC = (*METHODS, "kl")
_BINS = 2048
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class InputErrors:
    """Of int8 inputs, the sum over rows of |W x' - W x|^2 by that of |W x|^2.

    ``dynamic`` is that of a scale a row, ``static`` those of the ``ranges`` T of |x|, by the same names. Infinite
    where W x is 0 and W x' is not.
    """

    dynamic: float
    ranges: Mapping[str, float]
    static: Mapping[str, float]


def static_ranges(rows: np.ndarray) -> dict[str, float]:
    """The range T of |x| by each of STATIC, of finite inputs x float32 [R, K], R > 0; 0 if all of them are 0."""
    values = np.abs(rows).reshape(1, -1)
    ranges = {method: 127 * float(choose_grid(values, Scheme(), method=method).scale[0]) for method in METHODS}
    # Zeros are exact in any range. Counted, the many behind a ReLU would outweigh all that is to be told apart.
    used = values[values > 0].astype(np.float64)
    counts, edges = np.histogram(used, _BINS, (0, used.max(initial=0) or 1))
    ranges["kl"] = kl_threshold(counts, float(edges[1])) if len(used) else 0.0
    return ranges


def input_errors(matrix: np.ndarray, rows: np.ndarray, ranges: Mapping[str, float]) -> InputErrors:
    """Errors of W float32 [N, K] on inputs float32 [R, K] that, to be fair, had no part in choosing ``ranges``."""
    columns = matrix.shape[1]
    gram = np.zeros((columns, columns))
    for start in range(0, len(matrix), _BLOCK_ROWS):
        block = matrix[start : start + _BLOCK_ROWS].astype(np.float64)
        gram += block.T @ block
    static = {}
    for name, limit in ranges.items():
        grid = rows_grid(np.full(len(rows), limit / 127))
        static[name] = output_error(rows, round_to_grid(rows, grid).dequantize(columns), gram)
    dynamic = output_error(rows, quantize_rows(rows).dequantize(columns), gram)
    return InputErrors(dynamic, dict(ranges), static)


def sampled_errors(matrix: np.ndarray, rows: np.ndarray) -> InputErrors:
    """Of a sample float32 [R, K], R > 1: rows in even places choose ranges, those in odd places show the errors."""
    return input_errors(matrix, rows[1::2], static_ranges(rows[0::2]))

"""Scale refit: with the codes q given, the scales that fit best.

The best step of a group is linear least squares in the metric H of the inputs. With r = w - w' what is missing,
u = q - zero the direction in which the step s moves a group's weights, it moves by

    s <- s + (u H r) / (u H u)         for a diagonal H and one group: s = (w H q) / (q H q)

and only where the stored value, a half for int4, is better too. With a diagonal H groups do not touch each other, and
each weight then moves to its nearest level once more. With the whole Gram matrix groups are visited in turn, and codes
stay: those of GPTQ are not the nearest ones, on purpose.
"""

from __future__ import annotations

import numpy as np

from pyengine.quantize.rounding.grid import Grid, blocks, grid_of, round_to_grid
from pyengine.quantize.rounding.schemes import GroupedMatrix, QuantizedMatrix

__all__ = ["refit"]

_PRODUCT = 1 << 20  # elements of a block with a Gram matrix


def refit(
    matrix: np.ndarray, quantized: QuantizedMatrix | GroupedMatrix, moments: np.ndarray
) -> QuantizedMatrix | GroupedMatrix:
    """Scales of ``quantized`` fitted anew to W float32 [N, K]; zero points stay.

    ``moments`` [K] >= 0 is a diagonal H, e.g. E[x^2] or ones, and the result is rounded once more; [K, K] is a Gram
    matrix, and the codes stay. The error in the metric H never grows.
    """
    grid = grid_of(quantized)
    columns = matrix.shape[1]
    group_scale = None if grid.group_scale is None else grid.group_scale.copy()
    fitted = Grid(grid.scheme, grid.scale.copy(), group_scale, grid.group_zero)
    # Small blocks stay in the cache, large ones make large products.
    size = () if moments.ndim == 1 else (_PRODUCT,)
    for start, stop in blocks(*matrix.shape, *size):
        codes = quantized.q[start:stop, :columns]
        _refit_rows(matrix[start:stop], codes, fitted.rows(start, stop), moments)
    if moments.ndim == 1:
        return round_to_grid(matrix, fitted)
    return fitted.matrix(quantized.q[:, :columns], matrix)


def _refit_rows(matrix: np.ndarray, codes: np.ndarray, grid: Grid, moments: np.ndarray) -> None:
    """Improve the scales of ``grid`` in place, one group after the other."""
    columns = matrix.shape[1]
    missing = matrix - grid.values(codes).astype(np.float64)
    ones, zeros = np.ones(len(matrix)), grid.zeros()
    for g, start in enumerate(range(0, columns, grid.scheme.group or columns)):
        own = slice(start, start + (grid.scheme.group or columns))
        direction = codes[:, own].astype(np.float64) - zeros[:, g, None]
        if grid.group_scale is None:
            _move(missing, own, direction, moments, ones, grid.scale)
        else:
            _move(missing, own, direction, moments, grid.scale.astype(np.float64), grid.group_scale[:, g])


def _move(
    missing: np.ndarray,
    own: slice,
    direction: np.ndarray,
    moments: np.ndarray,
    unit: np.ndarray,
    stored: np.ndarray,
) -> None:
    """Move ``stored`` [n], in units [n], along ``direction`` [n, group] where that is better; update ``missing``."""
    if moments.ndim == 1:
        slope = np.einsum("nk,nk->n", direction * moments[own], missing[:, own])
        curvature = np.einsum("nk,nk->n", direction * moments[own], direction)
    else:
        slope = np.einsum("nk,nk->n", direction, missing @ moments[:, own])
        curvature = np.einsum("nk,nk->n", direction @ moments[own, own], direction)
    usable = (curvature > 0) & (unit > 0)
    wanted = stored + np.divide(slope, curvature * unit, out=np.zeros(len(stored)), where=usable)
    with np.errstate(over="ignore"):  # what a half cannot hold is not taken
        moved = wanted.astype(stored.dtype)
    distance = (moved - stored.astype(np.float64)) * unit
    better = usable & np.isfinite(distance)
    better[better] = (distance * (2 * slope - distance * curvature))[better] > 0
    stored[better] = moved[better]
    missing[better, own] -= distance[better, None] * direction[better]

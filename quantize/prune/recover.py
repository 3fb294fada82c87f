"""Fit the weights that are left to what the unpruned model computes.

A layer of a pruned model sees inputs x that differ from those of the unpruned one, its teacher, and should give
the teacher's outputs y all the same. With C_xx and C_yx the centred sums of x x^T and y x^T,

    V = W + (C_yx - W C_xx) (C_xx + lambda I)^-1         b = mean_y - V mean_x

minimises ||Y - X V^T - b||^2 + lambda ||V - W||^2: layer-wise reconstruction, in closed form, with a ridge towards
the weights as they are. Where weights are masked, each row is fitted over those that it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyengine.quantize.prune.gram import fit_support, ridge_step, row_errors

__all__ = ["RecoveredLayer", "TeacherStatistics", "recover"]


class TeacherStatistics:
    """Sums over rows of inputs x of a pruned layer and outputs y of its teacher, in float64.

    ``gram`` [K, K], ``cross`` [N, K] (of y x^T), ``sum_x`` [K], ``sum_y`` [N], ``squares`` [N] (of y * y), ``count``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.count = 0
        self.gram = np.zeros((inputs, inputs))
        self.cross = np.zeros((outputs, inputs))
        self.sum_x = np.zeros(inputs)
        self.sum_y = np.zeros(outputs)
        self.squares = np.zeros(outputs)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in rows x [T, K] with the outputs y [T, N] that they should give."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.count += len(x)
        self.gram += x.T @ x
        self.cross += y.T @ x
        self.sum_x += x.sum(axis=0)
        self.sum_y += y.sum(axis=0)
        self.squares += np.square(y).sum(axis=0)


@dataclass(frozen=True)
class RecoveredLayer:
    """``weight`` float32 [N, K], ``bias`` float32 [N]; errors as shares of the variance of the teacher's outputs."""

    weight: np.ndarray
    bias: np.ndarray
    error_before: float
    error: float


def recover(
    weight: np.ndarray,
    bias: np.ndarray,
    statistics: TeacherStatistics,
    *,
    keep: np.ndarray | None = None,
    ridge: float = 0.01,
) -> RecoveredLayer:
    """Fit ``weight`` [N, K] and ``bias`` [N] to ``statistics`` of at least one row.

    ``keep`` bool [N, K]: the weights that may be other than zero, as all of ``weight`` must be already. A row that
    gains nothing stays as it is. Errors raised as in ``ridge_step``.
    """
    count = statistics.count
    mean_x, mean_y = statistics.sum_x / count, statistics.sum_y / count
    gram = statistics.gram - count * np.outer(mean_x, mean_x)
    cross = statistics.cross - count * np.outer(mean_y, mean_x)
    variance = np.maximum(statistics.squares - count * np.square(mean_y), 0.0)

    def errors(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
        wide = matrix.astype(np.float64)
        products = np.einsum("nk,nk->n", wide, cross)
        gap = mean_y - wide @ mean_x - vector.astype(np.float64)
        found: np.ndarray = np.maximum(variance - 2.0 * products + row_errors(wide, gram), 0.0) + count * np.square(gap)
        return found

    residual = cross - weight.astype(np.float64) @ gram
    if keep is None:
        step = ridge_step(residual, gram, ridge)
    else:
        step = fit_support(residual, gram, keep, ridge)
    fitted = (weight + step).astype(np.float32)
    shift = (mean_y - fitted.astype(np.float64) @ mean_x).astype(np.float32)
    before, after = errors(weight, bias), errors(fitted, shift)
    worse = ~(after < before)
    fitted[worse], shift[worse] = weight[worse], bias[worse]
    total = float(variance.sum()) or 1.0
    return RecoveredLayer(
        weight=fitted,
        bias=shift,
        error_before=float(before.sum()) / total,
        error=float(np.minimum(after, before).sum()) / total,
    )

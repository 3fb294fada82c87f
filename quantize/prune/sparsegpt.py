"""Remove weights and let the others make up for them.

"SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot". With U^T U = (gram + lambda I)^-1, U
upper triangular, columns go from left to right; where row n loses w = W[n, k],

    e = w / U[k, k]          W[n, k:] -= e U[k, k:]          (then W[n, k] = 0)

is the best that the columns behind k can do. What to remove is chosen from the weights as they are by then, by
w^2 / U[k, k]^2, the error that it costs if nothing behind it goes. Columns to the left are not touched again, and
those to the right may still lose what made up for others; so, last, each row is fitted by least squares over what
it keeps, with a ridge towards the original weights. On the layers of a small translation model, the fit halves the
error again, or better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyengine.quantize.prune.gram import fit_support, inverse_factor, row_errors
from pyengine.quantize.prune.masks import Pattern

__all__ = ["SparseMatrix", "prune_sparse"]

_COLUMNS = 128  # done before the columns behind them are touched, a product instead of 128 updates


@dataclass(frozen=True)
class SparseMatrix:
    """``weight`` float32 [N, K], zero where ``keep`` bool [N, K] is false.

    Errors are those of all outputs as a share of the outputs' squares: of ``weight``, and of the original weights
    under the same mask.
    """

    weight: np.ndarray
    keep: np.ndarray
    error: float
    masked_error: float


def prune_sparse(
    weight: np.ndarray, gram: np.ndarray, pattern: Pattern, *, damping: float = 0.01, fit: bool = True
) -> SparseMatrix:
    """Prune ``weight`` [N, K] to ``pattern`` with the ``gram`` float64 [K, K] of its inputs.

    A pattern without a span of its own chooses among 128 columns at a time, so that each such piece loses the same
    share. Without ``fit`` the compensated weights are the result. A row that is worse off than under its mask alone
    keeps its original weights. ``damping`` (the ridge of the fit, too) and the errors raised are as in
    ``inverse_factor``.
    """
    keep, pruned = _compensate(weight, inverse_factor(gram, damping), pattern)
    masked = np.where(keep, weight, np.float32(0))
    if fit:
        pruned = masked + fit_support((weight - masked) @ gram, gram, keep, damping)
    pruned = pruned.astype(np.float32)
    errors, masked_errors = (row_errors(weight - candidate, gram) for candidate in (pruned, masked))
    worse = ~(errors <= masked_errors)
    pruned[worse], errors[worse] = masked[worse], masked_errors[worse]
    energy = float(row_errors(weight, gram).sum()) or 1.0
    return SparseMatrix(pruned, keep, float(errors.sum()) / energy, float(masked_errors.sum()) / energy)


def _compensate(weight: np.ndarray, factor: np.ndarray, pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """The mask, bool [N, K], and the weights that are left, float64 [N, K]."""
    pivots = np.diagonal(factor)
    current = np.ascontiguousarray(weight.T, dtype=np.float64)  # [K, N]: a column of W is adjacent
    keep = np.ones(current.shape, bool)
    total = len(current)
    span = pattern.span or _COLUMNS
    columns = -(-_COLUMNS // span) * span
    for start in range(0, total, columns):
        end = min(start + columns, total)
        lost = np.zeros((end - start, current.shape[1]))
        for k in range(start, end):
            if (k - start) % span == 0:
                piece = slice(k, min(k + span, end))
                scores = np.square(current[piece] / pivots[piece, None])
                keep[piece] = pattern.keep(scores.T).T
            lost[k - start] = np.where(keep[k], 0.0, current[k] / pivots[k])
            current[k:end] -= factor[k, k:end, None] * lost[k - start]
        current[end:] -= factor[start:end, end:].T @ lost
    mask = np.ascontiguousarray(keep.T)
    return mask, np.where(mask, current.T, 0.0)

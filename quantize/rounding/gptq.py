"""GPTQ: rounding that lets the inputs not yet rounded make up for the error of those that are.

Frantar, Ashkboos, Hoefler and Alistarh (arXiv:2210.17323). With H = X^T X and the upper triangular U, U^T U = H^-1,
the columns of W are rounded one after the other, and

    e = w_k - w'_k                w_j <- w_j - e U_kj / U_kk          for the columns j still to come

Columns go in the order of falling H_kk ("activation order"), with the scales of a grid chosen beforehand in the
original order ("static groups"): codes go back to their places, and nothing at run time knows of the order. Each H_kk
grows by a hundredth, ten times more on each try until all numbers are finite; a hundredth of their mean, as in the
paper, drowns the others where a few inputs are huge, as in language models. An input that was never seen correlates
with none, and its column is rounded plainly: it may come yet. A channel that plain rounding serves better, by e H e^T,
keeps that.

Chunks of channels are worked on transposed, so that all that is done for a column is in contiguous memory and in the
cache. Errors reach a block of 64 columns in one product before it begins, and go on inside it one by one, without BLAS:
many small products on several threads are slow beside other processes.
"""

from __future__ import annotations

import numpy as np

from pyengine.errors import InputError
from pyengine.quantize.measuring.distortion import output_power
from pyengine.quantize.rounding.grid import Grid
from pyengine.quantize.rounding.schemes import GroupedMatrix, QuantizedMatrix

__all__ = ["gptq"]

_CHUNK = 2048  # channels at a time
_BLOCK = 64  # columns
_DAMPING = 0.01  # of the diagonal
_TRIES = 6


def gptq(matrix: np.ndarray, grid: Grid, gram: np.ndarray) -> QuantizedMatrix | GroupedMatrix:
    """Round a finite float32 matrix [N, K] to ``grid``, for inputs with the Gram matrix ``gram`` float64 [K, K].

    The output error of no channel is larger than that of ``round_to_grid``. Raises InputError if ``gram`` is not the
    Gram matrix of anything: not finite, or far from positive semidefinite.
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    codes = np.empty(matrix.shape, np.int16)
    for attempt in range(_TRIES):
        factor = _factor(gram[np.ix_(order, order)], _DAMPING * 10.0**attempt)
        if factor is not None and all(
            _round_chunk(matrix, grid, gram, order, factor, start, codes)
            for start in range(0, len(matrix), _CHUNK)
        ):
            return grid.matrix(codes, matrix)
    raise InputError(
        "gram: expected a finite positive semidefinite matrix, found one without a Cholesky factor"
    )


def _factor(gram: np.ndarray, damping: float) -> np.ndarray | None:
    """U_kj / U_kk in row j, column k: float32 [K, K] with ones on the diagonal; None if it is not finite.

    The Cholesky factor of H in reversed order gives H = R R^T with an upper triangular R, and U = R^-1.
    """
    damped = gram.astype(np.float64)
    diagonal = np.einsum("kk->k", damped)
    dead = diagonal == 0
    with np.errstate(over="ignore", invalid="ignore"):
        diagonal *= 1 + damping
        diagonal[dead] = 1  # its column is 0 elsewhere
        try:
            root = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            return None
        inverse = _triangular_inverse(np.ascontiguousarray(root))
        factor = (inverse / np.diag(inverse)[:, None]).astype(np.float32).T
    return np.ascontiguousarray(factor) if np.isfinite(factor).all() else None


def _triangular_inverse(upper: np.ndarray) -> np.ndarray:
    """The inverse of an upper triangular matrix, by halves: [[A, B], [0, C]]^-1 = [[A', -A' B C'], [0, C']]."""
    size = len(upper)
    if size <= 64:
        return np.triu(np.linalg.inv(upper))
    half = size // 2
    result = np.zeros_like(upper)
    result[:half, :half] = _triangular_inverse(upper[:half, :half])
    result[half:, half:] = _triangular_inverse(upper[half:, half:])
    result[:half, half:] = -(result[:half, :half] @ upper[:half, half:]) @ result[half:, half:]
    return result


def _round_chunk(
    matrix: np.ndarray,
    grid: Grid,
    gram: np.ndarray,
    order: np.ndarray,
    factor: np.ndarray,
    start: int,
    codes: np.ndarray,
) -> bool:
    """Write the codes of the channels from ``start``; False if a number was not finite."""
    original = matrix[start : start + _CHUNK]
    chunk = grid.rows(start, start + len(original))
    permuted = _compensated(np.ascontiguousarray(original.T[order]), chunk, order, factor)
    if permuted is None:
        return False
    found = np.empty(original.shape, np.int16)
    found[:, order] = permuted.T
    plain = chunk.round(original).astype(np.int16)
    powers = [output_power(chunk.values(some) - original.astype(np.float64), gram) for some in (found, plain)]
    codes[start : start + len(original)] = np.where((powers[0] < powers[1])[:, None], found, plain)
    return True


def _compensated(target: np.ndarray, grid: Grid, order: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
    """Codes int16 [K, n] of ``target`` float32 [K, n], which is overwritten: columns of W in order, transposed."""
    steps = np.ascontiguousarray(grid.steps().T)
    divisors = np.where(steps == 0, np.float32(np.inf), steps)
    zeros = np.ascontiguousarray(grid.zeros().T)
    group_of = order // (grid.scheme.group or len(order))
    errors = np.empty_like(target)
    codes = np.empty(target.shape, np.int16)
    level = np.empty_like(target[0])
    spread = np.empty_like(target[:_BLOCK])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(target), _BLOCK):
            stop = min(len(target), start + _BLOCK)
            if start:
                target[start:stop] -= factor[start:stop, :start] @ errors[:start]
            for k in range(start, stop):
                np.divide(target[k], divisors[group_of[k]], out=level)
                np.rint(level, out=level)
                level += zeros[group_of[k]]
                np.clip(level, grid.low, grid.high, out=level)
                codes[k] = level
                level -= zeros[group_of[k]]
                level *= steps[group_of[k]]
                np.subtract(target[k], level, out=errors[k])
                update = np.multiply(factor[k + 1 : stop, k, None], errors[k], out=spread[: stop - k - 1])
                target[k + 1 : stop] -= update
            if not np.isfinite(errors[start:stop]).all():
                return None
    return codes

"""Remove whole inputs of a linear layer, neurons of an FFN or attention heads, and fit what stays to what was.

"Optimal Brain Surgeon" with units of several columns, greedily one unit after another, as in "ZipLM" and "A Fast
Post-Training Pruning Framework for Transformers". Let C be the Gram matrix of the inputs without their mean (the
bias makes up for the mean) and P = (C + lambda I)^-1 over the columns that are left. Removing the columns S costs

    tr(W_S P_SS^-1 W_S^T)      and leaves      W <- W - W_S P_SS^-1 P_S:      P <- P - P_:S P_SS^-1 P_S:

The layer before loses the rows, this one the columns. Last, the survivors are fitted anew, by least squares and
with an intercept, to the outputs of the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyengine.errors import OptionError
from pyengine.quantize.prune.gram import inverse_factor, ridge_step, row_errors

__all__ = ["NEURONS", "ReducedLayer", "Removal", "head_removal", "neuron_removal", "reconstruct"]

NEURONS = 16
"""Neurons go in multiples of as many: the packed layout has 16 rows a block."""


@dataclass(frozen=True)
class Removal:
    """Units in the order in which they go, and what it costs.

    ``columns`` int64 [steps, columns a step]; ``loss`` float64 [steps + 1]: the share of the variance of the
    outputs that is lost after so many steps, as estimated with the damping; 0 first, never falling.
    """

    columns: np.ndarray
    loss: np.ndarray

    def kept(self, steps: int, total: int) -> np.ndarray:
        """The columns of ``total`` that stay after ``steps``, int64, ascending."""
        if not 0 <= steps <= len(self.columns):
            raise OptionError(f"steps: expected 0 to {len(self.columns)}, found {steps}")
        return np.setdiff1d(np.arange(total), self.columns[:steps])


@dataclass(frozen=True)
class ReducedLayer:
    """A layer over the ``kept`` columns, int64 ascending: ``weight`` float32 [N, K'], ``bias`` float32 [N].

    Errors are shares of the variance of the whole layer's outputs: of this one, and of the original weights and
    bias over the same columns.
    """

    kept: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    error: float
    removal_error: float


def neuron_removal(
    weight: np.ndarray, gram: np.ndarray, mean: np.ndarray, count: int, *, steps: int, damping: float = 0.01
) -> Removal:
    """The ``steps`` * 16 columns of ``weight`` [N, K] that cost least, in steps of 16.

    ``gram`` float64 [K, K] and ``mean`` [K] are of ``count`` inputs. Each neuron is chosen with all before it gone,
    so that of two that stand in for each other one stays; the matrices follow in blocks of 16. Raises OptionError:
    ``steps`` that leave nothing, and as ``inverse_factor``.
    """
    current, inverse, variance = _start(weight, gram, mean, count, damping)
    columns = _limited(steps, NEURONS, current.shape[1])
    gone = np.zeros(current.shape[1], bool)
    loss = [0.0]
    for step in columns:
        diagonal, squares = np.diagonal(inverse).copy(), np.square(current).sum(axis=0)
        # Row i: of P, and of W^T, as the removals before it in this step have left them.
        rows = np.zeros((NEURONS, len(inverse)))
        lost = np.zeros((NEURONS, len(current)))
        cost = 0.0
        for i in range(NEURONS):
            score = np.where(gone, np.inf, np.maximum(squares, 0.0) / np.maximum(diagonal, np.finfo(float).tiny))
            k = int(np.argmin(score))
            step[i], gone[k] = k, True
            rows[i] = (inverse[k] - rows[:i, k] @ rows[:i]) / np.sqrt(diagonal[k])
            lost[i] = (current[:, k] - rows[:i, k] @ lost[:i]) / np.sqrt(diagonal[k])
            cost += float(score[k])
            diagonal -= np.square(rows[i])
            # The squares of W_j - lost r_j, for all j at once, with W_j as it is after i removals.
            products = lost[i] @ current - (lost[i] @ lost[:i].T) @ rows[:i]
            squares += rows[i] * (rows[i] * float(lost[i] @ lost[i]) - 2.0 * products)
        current -= lost.T @ rows
        inverse -= rows.T @ rows
        loss.append(loss[-1] + cost / variance)
    return Removal(columns, np.array(loss))


def head_removal(
    weight: np.ndarray,
    gram: np.ndarray,
    mean: np.ndarray,
    count: int,
    *,
    head_width: int,
    steps: int,
    damping: float = 0.01,
) -> Removal:
    """The ``steps`` blocks of ``head_width`` adjacent columns that cost least; the rest as ``neuron_removal``."""
    current, inverse, variance = _start(weight, gram, mean, count, damping)
    if head_width < 1 or current.shape[1] % head_width:
        raise OptionError(f"head_width: expected a divisor of {current.shape[1]}, found {head_width}")
    columns = _limited(steps, head_width, current.shape[1])
    left = [slice(start, start + head_width) for start in range(0, current.shape[1], head_width)]
    loss = [0.0]
    for step in columns:
        costs = [float(np.sum(current[:, s].T * np.linalg.solve(inverse[s, s], current[:, s].T))) for s in left]
        head = left.pop(int(np.argmin(costs)))
        step[:] = np.arange(head.start, head.stop)
        solved = np.linalg.solve(inverse[head, head], inverse[head])
        current -= current[:, head] @ solved
        inverse -= inverse[:, head] @ solved
        loss.append(loss[-1] + max(0.0, min(costs)) / variance)
    return Removal(columns, np.array(loss))


def reconstruct(
    weight: np.ndarray,
    bias: np.ndarray,
    gram: np.ndarray,
    mean: np.ndarray,
    count: int,
    kept: np.ndarray,
    *,
    ridge: float = 0.01,
) -> ReducedLayer:
    """Fit ``weight`` [N, K'] over the ``kept`` columns and ``bias`` [N] to the outputs of the whole layer.

    The ridge is towards the weights as they were: nothing removed is nothing changed, and the error never exceeds
    that of removing alone. Arguments as in ``neuron_removal``; errors raised as in ``ridge_step``.
    """
    centred = _centred(gram, mean, count)
    kept = np.sort(kept)
    whole = weight.astype(np.float64)
    difference = whole.copy()  # of the whole layer and the reduced one, as long as nothing is fitted
    difference[:, kept] = 0.0
    mean_output = difference @ mean
    removal_errors = row_errors(difference, centred) + count * np.square(mean_output)
    fitted, shift = weight[:, kept], bias.copy()
    if len(kept) < weight.shape[1]:
        residual = (difference @ centred)[:, kept]
        fitted = (fitted + ridge_step(residual, centred[np.ix_(kept, kept)], ridge)).astype(np.float32)
        difference[:, kept] = whole[:, kept] - fitted
        mean_output = difference @ mean
        shift = (bias + mean_output).astype(np.float32)
    # What float32 rounds away is part of the error, too.
    errors = row_errors(difference, centred) + count * np.square(bias + mean_output - shift.astype(np.float64))
    worse = errors > removal_errors
    fitted[worse], shift[worse] = weight[worse][:, kept], bias[worse]
    variance = float(row_errors(whole, centred).sum()) or 1.0
    return ReducedLayer(
        kept=kept,
        weight=fitted,
        bias=shift,
        error=float(np.minimum(errors, removal_errors).sum()) / variance,
        removal_error=float(removal_errors.sum()) / variance,
    )


def _start(
    weight: np.ndarray, gram: np.ndarray, mean: np.ndarray, count: int, damping: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """W in float64, P over all columns, and the variance of the outputs (summed over inputs and outputs)."""
    centred = _centred(gram, mean, count)
    factor = inverse_factor(centred, damping)
    current = weight.astype(np.float64)
    return current, factor.T @ factor, float(row_errors(current, centred).sum()) or 1.0


def _centred(gram: np.ndarray, mean: np.ndarray, count: int) -> np.ndarray:
    """The Gram matrix of the inputs without their mean."""
    mean = mean.astype(np.float64)
    centred: np.ndarray = gram - count * np.outer(mean, mean)
    return centred


def _limited(steps: int, width: int, total: int) -> np.ndarray:
    """Room for ``steps`` times ``width`` columns of ``total``, int64; one step's worth of columns must stay."""
    limit = -(-total // width) - 1
    if not 0 <= steps <= limit:
        raise OptionError(f"steps: expected 0 to {limit} of {width} columns each, found {steps}")
    return np.zeros((steps, width), np.int64)

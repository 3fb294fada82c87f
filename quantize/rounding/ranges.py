"""Ranges: how large a step is, for a whole channel or a group of it.

    absmax       the largest weight is the last level (of int4, symmetric: of -8..7 or -7..7, whichever rounds better)
    percentile   the quantile p of |W| takes the place of the largest weight; what lies beyond is clipped
    mse          the ratio c of the absmax step with the least sum_k h_k (w_k - w'_k)^2, over a grid of c
                 h_k = 1 for int8, and |w_k| and the group's root mean square together for int4, where the least sum of
                 squares clips too much: its few large weights carry a language model (as in llama.cpp's K types);
                 or E[x_k^2]: then it is the output's error, where inputs are uncorrelated;
                 or the Gram matrix of the inputs: then e H_gg e^T, the output's error of each group by itself
    kl           a static range of activations from a histogram of |x|, see ``static_ranges``

Choi, El-Khamy and Lee (arXiv:1612.01543) weigh rounding errors by second moments; the threshold of least
Kullback-Leibler divergence is Migacz's (8-bit inference with TensorRT, 2017).
"""

from __future__ import annotations

from typing import Callable

import numpy as np

from pyengine.errors import OptionError
from pyengine.quantize.rounding.grid import Grid, blocks, grouped, rows_grid, store_groups
from pyengine.quantize.rounding.schemes import Scheme

__all__ = ["METHODS", "choose_grid", "kl_threshold"]

METHODS = ("absmax", "percentile", "mse")
_LEVELS = 128  # magnitudes of int8, for the threshold of a histogram
_PRODUCT = (
    1 << 20
)  # elements of a block where BLAS is called for each candidate: it is slow on small products

# Ratios of the absmax step; the absmax steps come first, so that nothing replaces them without being better.
_INT8_RATIOS = np.linspace(1, 0.4, 61)
_SYMMETRIC_RATIOS = np.concatenate([[1, 8 / 7], np.linspace(1.12, 0.4, 37)])
_ZERO_POINT_RATIOS = np.linspace(1, 0.4, 31)

Loss = Callable[[np.ndarray], np.ndarray]  # errors [rows, G, group] -> [rows, G]


def choose_grid(
    matrix: np.ndarray,
    scheme: Scheme,
    *,
    method: str = "mse",
    weights: np.ndarray | None = None,
    percentile: float = 0.9999,
) -> Grid:
    """The grid of a finite float32 matrix [N, K] by one of METHODS.

    ``weights`` [K] or [K, K] is what "absmax" (of int4) and "mse" weigh errors by, see above. Raises OptionError
    for another method, or a percentile outside (0, 1].
    """
    if method not in METHODS:
        raise OptionError(f"method: expected one of {METHODS}, found {method!r}")
    if not 0 < percentile <= 1:
        raise OptionError(f"percentile: expected a number in (0, 1], found {percentile}")
    quantile = percentile if method == "percentile" else 1.0
    ratios, loss = _ratios(scheme, method), _loss(weights, scheme)
    parts, emphasis = [], weights is None and method == "mse" and scheme.group > 0
    size = (_PRODUCT,) if weights is not None and weights.ndim == 2 else ()
    for start, stop in blocks(*matrix.shape, *size):
        block = grouped(matrix[start:stop], scheme)
        step, zero = (_with_zero_points if scheme.zero_points else _symmetric)(block, scheme, quantile)
        levels = block / np.where(step == 0, np.float32(np.inf), step)[:, :, None]
        root = _importance(levels) if emphasis else None
        parts.append((step * _best_ratio(levels, zero[:, :, None], scheme, ratios, loss, root), zero))
    step = np.concatenate([part[0] for part in parts])
    if not scheme.group:
        return rows_grid(step[:, 0])
    return store_groups(scheme, step, np.concatenate([part[1] for part in parts]) if scheme.zero_points else None)


def _ratios(scheme: Scheme, method: str) -> np.ndarray:
    """The candidates; for "absmax" of int4 the two ways to lay the levels."""
    if not scheme.group:
        ratios, absmax = _INT8_RATIOS, 1
    elif scheme.zero_points:
        ratios, absmax = _ZERO_POINT_RATIOS, 1
    else:
        ratios, absmax = _SYMMETRIC_RATIOS, 2
    return (ratios if method == "mse" else ratios[:absmax]).astype(np.float32)


def _loss(weights: np.ndarray | None, scheme: Scheme) -> Loss:
    """Sums of squares of the errors of a group, weighted."""
    if weights is None:
        return lambda error: np.einsum("rgk,rgk->rg", error, error)
    if weights.ndim == 1:
        root = grouped(np.sqrt(weights, dtype=np.float64).astype(np.float32)[None], scheme)

        def diagonal(error: np.ndarray) -> np.ndarray:
            error = error * root
            squares: np.ndarray = np.einsum("rgk,rgk->rg", error, error)
            return squares

        return diagonal
    group = scheme.group or len(weights)
    own = np.zeros((scheme.padded(len(weights)) // group, group, group), np.float32)
    for g, start in enumerate(range(0, len(weights), group)):
        part = weights[start : start + group, start : start + group]
        own[g, : len(part), : len(part)] = part

    def whole(error: np.ndarray) -> np.ndarray:
        by_group = error.transpose(1, 0, 2)
        products: np.ndarray = np.einsum("grk,grk->rg", by_group @ own, by_group)
        return products

    return whole


def _symmetric(block: np.ndarray, scheme: Scheme, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps and zeros [rows, G] with which the largest weight of each group is the last level: 127, or -8 of int4."""
    highest, lowest = block.max(axis=2), block.min(axis=2)
    largest = np.maximum(highest, -lowest)
    if quantile < 1:
        # An array, not a float: with that NumPy 2.2 would look for its place among the weights in float32.
        largest = np.quantile(np.abs(block), np.array(quantile), axis=2).astype(np.float32)
    if not scheme.group:
        return largest / np.float32(127), np.zeros_like(largest)
    return np.where(highest > -lowest, largest, -largest) / np.float32(-8), np.full_like(largest, 8)


def _with_zero_points(block: np.ndarray, scheme: Scheme, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps and zero points [rows, G] of the range of each group, widened to hold 0."""
    if quantile < 1:
        lowest, highest = np.quantile(block, (1 - quantile, quantile), axis=2).astype(np.float32)
    else:
        lowest, highest = block.min(axis=2), block.max(axis=2)
    lowest, highest = np.minimum(lowest, 0), np.maximum(highest, 0)
    # Each divided by itself: their difference may be more than float32 holds.
    step = highest / np.float32(15) - lowest / np.float32(15)
    return step, np.clip(np.rint(-lowest / np.where(step == 0, np.float32(1), step)), 0, 15)


def _importance(levels: np.ndarray) -> np.ndarray:
    """What errors are multiplied by [rows, G, group], so that large weights count more."""
    magnitudes: np.ndarray = np.abs(levels)
    magnitudes += np.sqrt(np.square(levels).mean(axis=2, keepdims=True))
    np.sqrt(magnitudes, out=magnitudes)
    return magnitudes


def _best_ratio(
    levels: np.ndarray, zero: np.ndarray, scheme: Scheme, ratios: np.ndarray, loss: Loss, root: np.ndarray | None
) -> np.ndarray:
    """The ratio [rows, G] with the least loss of errors, times ``root`` if it is there; ``levels`` [rows, G, group] are
    in absmax steps."""
    low, high = (-zero, 15 - zero) if scheme.group else (-127, 127)
    best = np.full(levels.shape[:2], ratios[0], np.float32)
    if len(ratios) == 1:
        return best
    error = np.empty_like(levels)
    least = np.full(best.shape, np.inf, np.float32)
    for ratio in ratios:
        np.divide(levels, ratio, out=error)
        np.rint(error, out=error)
        np.clip(error, low, high, out=error)
        error *= ratio
        error -= levels
        if root is not None:
            error *= root
        losses = loss(error)
        better = losses < least
        best[better] = ratio
        np.minimum(least, losses, out=least)
    return best


def kl_threshold(counts: np.ndarray, width: float) -> float:
    """The range T of |x| from a histogram of equal bins of ``width`` that begin at 0; the scale is T / 127.

    For each T of 128 bins and more, P is the histogram cut at T with the tail in its last bin, and Q the cut
    histogram in 128 levels, each spread evenly over those of its bins that hold something. T has the least
    KL(P || Q); the smallest such T. Raises OptionError for fewer than 128 bins or no counts.
    """
    counts = np.asarray(counts, np.float64)
    total = counts.sum()
    if len(counts) < _LEVELS or not total > 0:
        raise OptionError(
            f"histogram: expected {_LEVELS} bins or more with counts, found {len(counts)}, sum {total}"
        )
    best, least = len(counts), np.inf
    for bins in range(_LEVELS, len(counts) + 1):
        kept = counts[:bins]
        cut = kept.copy()
        cut[-1] += total - kept.sum()
        level = np.arange(bins) * _LEVELS // bins
        held = np.bincount(level, kept > 0, _LEVELS)
        mean = np.bincount(level, kept, _LEVELS) / np.maximum(held, 1)
        spread = np.where(kept > 0, mean[level], 0)
        used = cut > 0
        if (spread[used] == 0).any():
            continue  # the tail fell into an empty bin: P is not covered by Q
        p, q = cut[used] / total, spread[used] / spread.sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence < least:
            best, least = bins, divergence
    return best * width

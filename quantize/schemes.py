"""Schemes of rounding weights.

Symmetric int8 per output channel, with W [N, K] and a scale for each row n:

    scale[n] = max_k |W[n, k]| / 127          q[n, k] = rint(W[n, k] / scale[n]) in [-127, 127]
    W[n, k] ~ q[n, k] * scale[n]              |error| <= scale[n] / 2

-128 is not used, so that a product of two such numbers never saturates an instruction that negates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["QuantizedMatrix", "quantize_rows"]

_BLOCK_BYTES = 1 << 18  # of float32: what is held beside matrix and result is a few times this


@dataclass(frozen=True)
class QuantizedMatrix:
    """q int8 [N, K], scale float32 [N]; ``signal`` and ``noise``: the sums of W^2 and of (W - q*scale)^2."""

    q: np.ndarray
    scale: np.ndarray
    signal: float
    noise: float


def quantize_rows(matrix: np.ndarray) -> QuantizedMatrix:
    """Round a finite float32 matrix [N, K] to int8, symmetrically, with a scale a row (0 for zeros)."""
    rows, columns = matrix.shape
    q = np.empty((rows, columns), np.int8)
    scale = np.empty(rows, np.float32)
    signal = noise = 0.0
    step = max(1, _BLOCK_BYTES // (4 * columns))
    for start in range(0, rows, step):
        block = matrix[start : start + step]
        scales = (np.abs(block).max(axis=1) / np.float32(127)).astype(np.float32)
        # A row of zeros, or so small that the scale is 0 in float32, becomes zeros.
        quotient = np.divide(block, scales[:, None], out=np.zeros_like(block), where=scales[:, None] != 0)
        rounded = np.clip(np.rint(quotient, out=quotient), -127, 127, out=quotient)
        q[start : start + step] = rounded
        scale[start : start + step] = scales
        error = block - rounded * scales[:, None].astype(np.float64)
        signal += float(np.square(block, dtype=np.float64).sum())
        noise += float(np.square(error).sum())
    return QuantizedMatrix(q, scale, signal, noise)

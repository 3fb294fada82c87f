"""How far a quantized layer's output is from the original's, from the Gram matrix H = X^T X of its inputs.

With y = W x, the sum over inputs of |dW x|^2 is tr(dW H dW^T): no input has to be kept to measure an error.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["output_error", "output_power", "snr_db"]

_BLOCK_ROWS = 1024


def output_power(matrix: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """The sum over inputs of y_n^2, float64 [N]: the diagonal of W H W^T, for W [N, K] and H float64 [K, K]."""
    power = np.empty(len(matrix))
    for start in range(0, len(matrix), _BLOCK_ROWS):
        block = matrix[start : start + _BLOCK_ROWS].astype(np.float64)
        power[start : start + _BLOCK_ROWS] = np.einsum("nk,nk->n", block @ gram, block)
    return np.maximum(power, 0)  # rounding may leave a tiny negative number


def output_error(matrix: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> float:
    """tr(dW H dW^T) / tr(W H W^T) of W and W + dW, both [N, K]; 0 if the outputs agree, infinite if only W's are 0."""
    noise = float(output_power(rounded.astype(np.float64) - matrix, gram).sum())
    signal = float(output_power(matrix, gram).sum())
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else math.inf


def snr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two powers; infinite without noise, or without a signal."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf

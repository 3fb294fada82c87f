"""Bias correction: what rounding adds to the mean output, taken off the bias.

    b <- b - (W_q - W) E[x]

Nagel, van Baalen, Blankevoort and Welling (arXiv:1906.04721). Exact for the mean of the inputs that were seen.
"""

from __future__ import annotations

import numpy as np

__all__ = ["corrected_bias"]


def corrected_bias(
    bias: np.ndarray | None, matrix: np.ndarray, rounded: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """The bias float32 [N] that goes with ``rounded`` [N, K] in place of ``matrix`` [N, K]; ``mean`` [K] is E[x].

    A layer without a bias gets one.
    """
    shift = (rounded.astype(np.float64) - matrix) @ mean.astype(np.float64)
    corrected: np.ndarray = ((0 if bias is None else bias) - shift).astype(np.float32)
    return corrected

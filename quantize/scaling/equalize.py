"""Cross-layer equalization of two layers with a positively homogeneous function (ReLU, identity) between them.

    r1_i = max_k |W1[i, k]|      r2_i = max_n |W2[n, i]|      s_i = sqrt(r1_i / r2_i)
    W1[i, :] /= s_i     b1_i /= s_i     W2[:, i] *= s_i       after which both ranges are sqrt(r1_i r2_i)

Nagel, van Baalen, Blankevoort and Welling (arXiv:1906.04721). The fold is in fold.py. For one pair one pass is the
end: only in a chain, where a layer is in two pairs, is there something to repeat.
"""

from __future__ import annotations

import numpy as np

__all__ = ["equalizing_scales"]


def equalizing_scales(producer: np.ndarray, consumer: np.ndarray) -> np.ndarray:
    """Scales float32 [M] to divide rows of W1 [M, K] and multiply columns of W2 [N, M] by; 1 where one is all zeros."""
    before = np.abs(producer).max(axis=1).astype(np.float64)
    behind = np.abs(consumer).max(axis=0).astype(np.float64)
    used = (before > 0) & (behind > 0)
    scales: np.ndarray = np.sqrt(np.divide(before, behind, out=np.ones(len(before)), where=used)).astype(np.float32)
    return scales

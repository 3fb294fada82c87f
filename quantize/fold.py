"""Folding a scale of each channel into what lies before and behind it.

Where y = W2 f(x) and x_j comes from a norm's gain or a linear layer's row, scales s > 0 change nothing:

    x_j <- x_j / s_j       the producer: gain and bias of the norm, or row and bias of the layer, divided by s
    W2[:, j] <- W2[:, j] s_j        every consumer of x

This holds exactly for f = identity and any positively homogeneous f, such as ReLU; for a product of two branches (a
gated layer) it holds for the branch without the activation; through GELU or SiLU it does not.
"""

from __future__ import annotations

import numpy as np

__all__ = ["divide_rows", "divide_vector", "multiply_columns"]


def multiply_columns(matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """A consumer float32 [N, K] of inputs that were divided by ``scales`` float32 [K]."""
    return matrix * scales


def divide_rows(matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """A producer float32 [N, K] whose outputs are to be divided by ``scales`` float32 [N]; its bias, too."""
    return matrix / scales[:, None]


def divide_vector(vector: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The gain or bias of a norm, or the bias of a linear layer, float32 [N], divided by ``scales`` float32 [N]."""
    return vector / scales

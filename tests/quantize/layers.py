"""Random layers and inputs for the tests of the methods."""

from __future__ import annotations

import numpy as np

from pyengine.quantize.rounding.schemes import Scheme

INT8 = Scheme()
SCHEMES = (INT8, Scheme(32), Scheme(64), Scheme(32, zero_points=True), Scheme(128, zero_points=True))
FOURS = SCHEMES[1:]


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """W float32 [rows, columns], heavy-tailed, with channels of different size."""
    generator = np.random.default_rng(seed)
    matrix = generator.standard_t(5, (rows, columns)) * np.exp(generator.standard_normal((rows, 1)))
    return matrix.astype(np.float32)


def inputs(count: int, columns: int, seed: int = 0) -> np.ndarray:
    """x float32 [count, columns], correlated, with channels of different size and a mean that is not 0."""
    generator = np.random.default_rng(1000 + seed)
    hidden = max(1, columns // 3)
    x = (
        generator.standard_normal((count, hidden))
        @ generator.standard_normal((hidden, columns))
        / hidden**0.5
    )
    x += 0.3 * generator.standard_normal((count, columns)) + 0.5
    return (x * np.exp(generator.standard_normal(columns))).astype(np.float32)


def gram(x: np.ndarray) -> np.ndarray:
    """X^T X, float64."""
    wide = x.astype(np.float64)
    return wide.T @ wide

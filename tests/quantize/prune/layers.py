"""Inputs and weights of linear layers for these tests: correlated, with a mean and channels of unequal size."""

from __future__ import annotations

import numpy as np


def inputs(seed: int, count: int, columns: int, rank: int | None = None) -> np.ndarray:
    """float32 [count, columns] in a space of ``rank`` dimensions (default: all), plus a mean."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((rank or columns, columns)) * np.exp(random.standard_normal(columns))
    x = random.standard_normal((count, rank or columns)) @ mixing + random.standard_normal(columns)
    return x.astype(np.float32)


def weights(seed: int, rows: int, columns: int) -> np.ndarray:
    """float32 [rows, columns]."""
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def gram(x: np.ndarray) -> np.ndarray:
    """X^T X, float64."""
    wide = x.astype(np.float64)
    return wide.T @ wide

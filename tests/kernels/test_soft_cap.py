"""Soft caps: of logits, in place."""

from __future__ import annotations

import numpy as np
import pytest

from .bounds import UNIT, assert_within
from .memory import EDGES, output
from .test_activations import STATED, points

SIZES = (*range(1, 19), 31, 32, 33, 63, 64, 65, 333, 1024)
CAPS = (30.0, 50.0, 0.7)


def soft_cap(kernels, x: np.ndarray, cap: float, edge: str = "end") -> np.ndarray:
    row = output(x.shape, np.float32, edge)
    row.array[:] = x
    kernels.soft_cap(row.array, cap)
    row.assert_clean_outside()
    return row.array.copy()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_same_bytes_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    x = np.random.default_rng(n).normal(0, 40, n).astype(np.float32)
    for cap in CAPS:
        assert soft_cap(kernels, x, cap, edge).tobytes() == soft_cap(reference, x, cap).tobytes()


@pytest.mark.parametrize("cap", CAPS)
def test_against_float64(reference, cap: float) -> None:
    """The error of tanh, that of its argument in the bend (x tanh'(x) is at most 0.45), and the last product's."""
    x = points(-20 * cap, 20 * cap)
    wide = np.float64(np.float32(cap))
    expected = wide * np.tanh(x / wide)
    bound = wide * (STATED["tanh"][0] + 0.45 * 2 * UNIT) + UNIT * np.abs(expected)
    assert_within(soft_cap(reference, x, cap), expected, 1.01 * bound)


def test_every_operation_is_rounded(kernels) -> None:
    """x times the rounded 1 / cap, not x / cap, which differs in the last bit."""
    x = np.random.default_rng(5).normal(0, 30, 512).astype(np.float32)
    inner = x * (np.float32(1) / np.float32(30))
    ones = soft_cap(kernels, inner, 1.0)
    assert soft_cap(kernels, x, 30.0).tobytes() == (ones * np.float32(30)).tobytes()


def test_far_out_and_nan(kernels) -> None:
    x = np.array([1e30, -1e30, np.inf, -np.inf, 0.0, np.nan] * 3, np.float32)
    expected = np.array([30, -30, 30, -30, 0, np.nan] * 3, np.float32)
    np.testing.assert_array_equal(soft_cap(kernels, x, 30.0), expected)

"""The two passes over a row of logits: exp_sum for the normaliser, above for the candidates."""

from __future__ import annotations

import numpy as np
import pytest

from .bounds import EXP_ERROR, UNIT, assert_within, chain
from .memory import EDGES, output, placed

SIZES = (*range(1, 19), 31, 32, 33, 63, 64, 65, 127, 129, 255, 257, 1000, 1023, 1024)


def random_logits(n: int, size: float = 5.0) -> np.ndarray:
    return np.random.default_rng(n).normal(-3, size, n).astype(np.float32)


def above(kernels, x: np.ndarray, threshold: float, edge: str = "end") -> np.ndarray:
    indices = output((len(x),), np.int32, edge)
    count = kernels.above(placed(x, edge), threshold, indices.array)
    indices.assert_clean_outside((slice(0, count),))
    return indices.array[:count].copy()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_exp_sum_is_the_same_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    for size in (0.1, 5.0, 60.0):
        x = random_logits(n, size)
        assert kernels.exp_sum(placed(x, edge)) == reference.exp_sum(x)


@pytest.mark.parametrize("n", SIZES)
def test_exp_sum_against_float64(reference, n: int) -> None:
    x = random_logits(n)
    top, total = reference.exp_sum(x)
    assert top == x.max()
    difference = x.astype(np.float64) - x.max()
    terms = np.exp(difference)
    bound = (terms * (EXP_ERROR + np.abs(difference) * UNIT)).sum() + chain(n) * UNIT * terms.sum()
    assert_within(total, terms.sum(), 1.01 * bound)


@pytest.mark.parametrize("at", [0, 1, 15, 16, 30, 36])
def test_exp_sum_finds_the_largest_anywhere(kernels, at: int) -> None:
    x = np.full(37, -200, np.float32)
    x[at] = -100  # all others are e^-100 of it: nothing
    assert kernels.exp_sum(placed(x)) == (-100, 1)


@pytest.mark.parametrize("n", [1, 5, 16, 37])
def test_exp_sum_of_equal_logits_counts_them(kernels, n: int) -> None:
    assert kernels.exp_sum(placed(np.full(n, -3.5, np.float32))) == (-3.5, n)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_above_equals_numpy(kernels, n: int, edge: str) -> None:
    x = random_logits(n)
    for threshold in (-np.inf, -3.0, float(x[n // 2]), float(x.max()), np.inf):
        np.testing.assert_array_equal(above(kernels, x, threshold, edge), np.flatnonzero(x > np.float32(threshold)))


@pytest.mark.parametrize("n", (1, 15, 16, 17, 1000, 1024))
def test_exp_sum_of_minus_infinity(kernels, reference, n: int) -> None:
    """Ids that are never written: nothing of the sum, also where a chunk has no others."""
    assert kernels.exp_sum(placed(np.full(n, -np.inf, np.float32))) == (-np.inf, 0)
    x = np.full(n, -np.inf, np.float32)
    x[n // 2 :: 3] = np.linspace(-4, 1, len(x[n // 2 :: 3]), dtype=np.float32)
    found = kernels.exp_sum(placed(x))
    assert found == reference.exp_sum(x) and np.isfinite(found).all()


def test_above_leaves_out_equal_and_infinite(kernels) -> None:
    x = np.array([1, 2, -np.inf, 2, 3, 2, np.inf] * 5, np.float32)
    np.testing.assert_array_equal(above(kernels, x, 2.0), np.flatnonzero(x > 2))
    np.testing.assert_array_equal(above(kernels, x, -np.inf), np.flatnonzero(x > -np.inf))


@pytest.mark.parametrize("n", [1, 5, 16, 37])
def test_exp_sum_of_what_is_not_finite(kernels, n: int) -> None:
    """Ids that may not be taken count as nothing, also where there is no other; NaN is never overlooked."""
    x = np.full(n, -np.inf, np.float32)
    assert kernels.exp_sum(placed(x)) == (-np.inf, 0)
    for at in {0, n // 2, n - 1}:
        for rest in (-np.inf, 2.0):
            x[:] = rest
            x[at] = np.nan
            assert np.isnan(kernels.exp_sum(placed(x))[1])

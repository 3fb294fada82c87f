"""RMS normalisation: of a row of the model, and of a head's query or key."""

from __future__ import annotations

import numpy as np
import pytest

from .bounds import UNIT, assert_within, chain
from .memory import EDGES, output, placed

SIZES = (*range(1, 19), 20, 31, 32, 33, 63, 64, 65, 80, 96, 127, 129, 255, 257, 1023, 2048)
EPSILON = 1e-6


def rmsnorm(kernels, x, weight, epsilon: float = EPSILON, edge: str = "end", in_place: bool = False) -> np.ndarray:
    y = output(x.shape, np.float32, edge)
    if in_place:
        y.array[:] = x
    kernels.rmsnorm(y.array if in_place else placed(x, edge), placed(weight, edge), epsilon, y.array)
    y.assert_clean_outside()
    return y.array.copy()


def random_row(n: int, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.normal(0.3, 1, n).astype(np.float32) * np.float32(size), rng.normal(1, 0.3, n).astype(np.float32)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_same_bytes_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    row = random_row(n, 3)
    expected = rmsnorm(reference, *row)
    assert rmsnorm(kernels, *row, edge=edge).tobytes() == expected.tobytes()
    assert rmsnorm(kernels, *row, edge=edge, in_place=True).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [1, 1e4, 1e-4])
@pytest.mark.parametrize("n", SIZES)
def test_against_float64(reference, n: int, size: float) -> None:
    x, weight = random_row(n, size)
    wide = x.astype(np.float64)
    square = (wide**2).mean()
    expected = wide / np.sqrt(square + EPSILON) * weight

    # The sum's chain, its division by n and eps (itself rounded) are halved by the root; then the root, its inverse and
    # two products.
    relative = 0.5 * (chain(n) * square / (square + EPSILON) + 3) + 4
    assert_within(rmsnorm(reference, x, weight), expected, 1.01 * relative * UNIT * np.abs(expected))


def test_against_numbers_made_by_hand(kernels) -> None:
    """The mean square of 1 and 7 is 25."""
    got = rmsnorm(kernels, np.array([1, 7], np.float32), np.array([10, -5], np.float32), 0.0)
    assert_within(got, np.array([2.0, -7.0]), 4 * UNIT * np.array([2, 7]))


@pytest.mark.parametrize("n", [1, 8, 17, 64])
def test_a_row_of_zeros_stays_zero(kernels, n: int) -> None:
    assert not rmsnorm(kernels, np.zeros(n, np.float32), random_row(n)[1]).any()


@pytest.mark.parametrize("n", [1, 7, 16, 33])
def test_nan_takes_the_whole_row(kernels, n: int) -> None:
    for at in {0, n // 2, n - 1}:
        x, weight = random_row(n)
        weight[at] = np.nan
        assert np.isnan(rmsnorm(kernels, x, weight)).nonzero()[0].tolist() == [at]
        x[at] = np.nan
        assert np.isnan(rmsnorm(kernels, x, random_row(n)[1])).all()

"""Rows times a Hadamard matrix."""

from __future__ import annotations

import numpy as np
import pytest

from ..oracle.transformer import hadamard_matrix
from .bounds import UNIT, assert_within
from .memory import EDGES, output

WIDTHS = (1, 7, 8, 15, 16, 17, 24, 31, 32, 33, 64, 72, 80, 96, 100, 128, 136, 144, 200, 256, 384, 496, 576, 640, 1536)


def mixed(kernels, x: np.ndarray, edge: str = "end") -> np.ndarray:
    row = output(x.shape, np.float32, edge)
    row.array[:] = x
    kernels.hadamard(row.array)
    row.assert_clean_outside()
    return row.array.copy()


def random_row(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(0, 2, n).astype(np.float32)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", WIDTHS)
def test_same_bytes_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    assert mixed(kernels, random_row(n), edge).tobytes() == mixed(reference, random_row(n)).tobytes()


@pytest.mark.parametrize("n", WIDTHS)
def test_against_float64(reference, n: int) -> None:
    """A rounding for each step, of sums that are no larger than that of all values."""
    x = random_row(n).astype(np.float64)
    matrix = hadamard_matrix(n)
    assert_within(mixed(reference, random_row(n)), matrix @ x, UNIT * 12 * (np.abs(matrix) @ np.abs(x)))


def test_twice_gives_the_row_back(kernels) -> None:
    x = np.arange(-288, 288, dtype=np.float32)  # sums that float32 holds
    assert (mixed(kernels, mixed(kernels, x)) == 32 * x).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_goes_to_its_own_channels(kernels, value: float) -> None:
    x = random_row(576)
    x[100] = value
    assert (~np.isfinite(mixed(kernels, x))).nonzero()[0].tolist() == list(range(100 % 18, 576, 18))

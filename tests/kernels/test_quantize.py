"""Rows to int8: one scale a row, ties to even, never -128."""

from __future__ import annotations

import numpy as np
import pytest

from .bounds import UNIT, assert_within
from .memory import EDGES, output, placed

SIZES = (*range(1, 19), 31, 32, 33, 63, 64, 65, 127, 129, 255, 257, 512, 1025, 2048)


def quantize(kernels, x: np.ndarray, n_padded: int | None = None, flip: int = 0, edge: str = "end"):
    """(q int8 [n_padded], scale) in guarded memory."""
    n_padded = len(x) if n_padded is None else n_padded
    q, scale = output((n_padded,), np.int8, edge), output((1,), np.float32, edge)
    kernels.quantize(placed(x, edge), n_padded, flip, q.array, scale.array)
    q.assert_clean_outside()
    scale.assert_clean_outside()
    return q.array.copy(), scale.array[0]


def random_row(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(1000 * seed + n).normal(0, 2, n).astype(np.float32)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_same_bytes_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    x = random_row(n)
    for n_padded in (n, -(-n // 4) * 4, -(-n // 64) * 64):
        for flip in (0, 0x80):
            q, scale = quantize(kernels, x, n_padded, flip, edge)
            expected, expected_scale = quantize(reference, x, n_padded, flip, edge)
            assert q.tobytes() == expected.tobytes()
            assert scale == expected_scale


@pytest.mark.parametrize("n", SIZES)
def test_against_float64(reference, n: int) -> None:
    """scale = max |x| / 127, and no value is further than half a step from where it was."""
    x = random_row(n, 1)
    q, scale = quantize(reference, x)
    largest = np.abs(x.astype(np.float64)).max()
    assert_within(scale, largest / 127, 2 * UNIT * largest / 127)
    assert q.min() >= -127
    assert np.abs(q[np.abs(x).argmax()]) == 127
    # x * (127 / largest) takes two roundings, the scale two more: 4 u of up to 127 steps.
    assert_within(q * np.float64(scale), x, (0.5 + 127 * 4 * UNIT) * largest / 127)


def test_ties_go_to_even(kernels) -> None:
    x = np.array([127, 0.5, 1.5, 2.5, 3.5, -0.5, -1.5, -2.5, 126.5, -126.5], np.float32)
    q, scale = quantize(kernels, x)
    assert scale == 1
    assert q.tolist() == [127, 0, 2, 2, 4, 0, -2, -2, 126, -126]


@pytest.mark.parametrize("flip", [0, 0x80])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_row_of_zeros(kernels, zero: float, flip: int) -> None:
    q, scale = quantize(kernels, np.full(21, zero, np.float32), 32, flip)
    assert scale == 0 and not np.signbit(scale)
    assert np.all(q.view(np.uint8) == flip)


@pytest.mark.parametrize("size", [1e-45, 1e-39, 2e-38, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("n", [1, 7, 33])
def test_tiny_and_huge_rows(kernels, reference, n: int, size: float) -> None:
    """Also where 127 / max overflows, and where the scale is subnormal."""
    x = np.clip(random_row(n, 2).astype(np.float64) * size, -3e38, 3e38).astype(np.float32)
    q, scale = quantize(kernels, x)
    expected, expected_scale = quantize(reference, x)
    assert q.tobytes() == expected.tobytes() and scale == expected_scale
    assert q.min() >= -127


@pytest.mark.parametrize("sign", [1, -1])
def test_extremes(kernels, sign: int) -> None:
    q, scale = quantize(kernels, np.full(40, 3 * sign, np.float32))
    assert np.all(q == 127 * sign)
    assert_within(scale, 3 / 127, 2 * UNIT * 3 / 127)


def test_a_row_whose_factor_would_overflow_counts_as_zeros(kernels) -> None:
    """127 / 1e-38 is infinite, and 0 times that is no number."""
    x = np.array([1e-38, -1e-38, 0.0, 0.0, 1e-39], np.float32)
    q, scale = np.full(8, 99, np.int8), np.ones(1, np.float32)
    kernels.quantize(x, 8, 0, q, scale)
    assert not q.any() and scale[0] == 0.0


@pytest.mark.parametrize("n", [1, 7, 16, 33, 100])
def test_a_row_that_is_not_finite_has_such_a_scale(kernels, n: int) -> None:
    """So that products of it are not finite either: bytes cannot say it."""
    for at in {0, n // 2, n - 1}:
        x = random_row(n)
        x[at] = np.inf
        assert quantize(kernels, x)[1] == np.inf
        x[(at + 1) % n] = -np.nan
        assert np.isnan(quantize(kernels, x)[1])

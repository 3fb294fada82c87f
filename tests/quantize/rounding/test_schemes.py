"""Symmetric int8 a row: the formula, its bounds and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.quantize.rounding.schemes import quantize_rows


@pytest.mark.parametrize("shape", ((1, 1), (3, 7), (64, 256), (3000, 130)))
def test_the_formula(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    result = quantize_rows(matrix)
    assert result.q.dtype == np.int8 and result.q.shape == shape
    assert result.scale.dtype == np.float32 and result.scale.shape == shape[:1]
    np.testing.assert_array_equal(result.scale, np.abs(matrix).max(axis=1) / np.float32(127))
    np.testing.assert_array_equal(result.q, np.rint(matrix / result.scale[:, None]))
    assert np.abs(result.q.astype(int)).max(axis=1).tolist() == [127] * shape[0]
    back = result.q * result.scale[:, None].astype(np.float64)
    # Half a step, and the rounding of the quotient in float32.
    assert (np.abs(back - matrix) <= result.scale[:, None] * (0.5 + 127 * 2.0**-23)).all()
    assert result.signal == pytest.approx(np.square(matrix, dtype=np.float64).sum(), rel=1e-12)
    assert result.noise == pytest.approx(np.square(back - matrix).sum(), rel=1e-3)


def test_quantizing_again_changes_nothing() -> None:
    matrix = np.random.default_rng(1).standard_normal((50, 40)).astype(np.float32)
    first = quantize_rows(matrix)
    second = quantize_rows(first.q * first.scale[:, None])
    np.testing.assert_array_equal(second.q, first.q)
    np.testing.assert_allclose(second.scale, first.scale, rtol=1e-6)


def test_rows_do_not_depend_on_each_other() -> None:
    matrix = np.random.default_rng(2).standard_normal((9, 5)).astype(np.float32)
    matrix[4] *= 1e6
    whole = quantize_rows(matrix)
    for row in range(9):
        alone = quantize_rows(matrix[row : row + 1])
        np.testing.assert_array_equal(alone.q[0], whole.q[row])
        assert alone.scale[0] == whole.scale[row]


def test_edges_of_float32() -> None:
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    rows = (
        (0, 0),
        (-0.0, 0),
        (largest, -largest),
        (smallest, 0),
        (300 * smallest, -190 * smallest),
        (1e-38, -1e-38),
    )
    with np.errstate(all="raise", under="ignore"):
        result = quantize_rows(np.array(rows, np.float32))
    assert result.q.tolist()[:4] == [[0, 0], [0, 0], [127, -127], [0, 0]]
    assert result.scale.tolist()[:2] == [0, 0] and result.scale[3] == 0
    assert result.q[4].tolist() == [127, -95] and result.q[5].tolist() == [127, -127]
    assert np.isfinite(result.scale).all() and np.isfinite((result.signal, result.noise)).all()


def test_minus_128_is_never_used() -> None:
    matrix = np.random.default_rng(3).standard_cauchy((500, 33)).astype(np.float32)
    assert quantize_rows(matrix).q.min() == -127

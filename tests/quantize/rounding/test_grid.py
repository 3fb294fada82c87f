"""Grids and int4 groups: codes are the nearest of what is stored, and mean what the format says."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.rounding.grid import grid_of, round_to_grid, rows_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.schemes import GroupedMatrix, Scheme, quantize_rows

from ..layers import FOURS, SCHEMES, weights


@pytest.mark.parametrize("scheme", FOURS)
@pytest.mark.parametrize("shape", ((1, 1), (3, 33), (40, 256), (700, 130)))
def test_what_is_stored(scheme: Scheme, shape: tuple[int, int]) -> None:
    """Types and shapes, and the formula of the format, element by element in float64."""
    matrix = weights(*shape)
    result = round_to_grid(matrix, choose_grid(matrix, scheme))
    assert isinstance(result, GroupedMatrix)
    rows, columns = shape
    groups = -(-columns // scheme.group)
    assert (result.q.dtype, result.q.shape) == (np.uint8, (rows, groups * scheme.group))
    assert (result.scale.dtype, result.scale.shape) == (np.float32, (rows,))
    assert (result.group_scale.dtype, result.group_scale.shape) == (np.float16, (rows, groups))
    assert result.q.max() <= 15 and (result.group_zero is not None) == scheme.zero_points
    expected = np.empty(shape)
    for k in range(columns):
        scale, step = (
            result.scale.astype(np.float64),
            result.group_scale[:, k // scheme.group].astype(np.float64),
        )
        zero = 8.0 if result.group_zero is None else result.group_zero[:, k // scheme.group].astype(np.float64)
        expected[:, k] = scale * step * (result.q[:, k] - zero)
    found = result.dequantize(columns)
    assert found.dtype == np.float32
    # float32 rounds twice, each time by half a unit of numbers up to 15 steps.
    step = np.abs(result.scale[:, None] * result.group_scale.astype(np.float64)).max()
    assert np.abs(found - expected).max() <= 2 * 15 * step * 2.0**-24
    noise = np.square(expected - matrix).sum()
    assert result.noise == pytest.approx(noise, rel=1e-4) and np.isfinite(result.signal)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_code_is_the_nearest(scheme: Scheme) -> None:
    matrix = weights(50, 200)
    grid = choose_grid(matrix, scheme)
    result = round_to_grid(matrix, grid)
    error = np.abs(result.dequantize(200).astype(np.float64) - matrix)
    # What float32 rounds off of a weight, and of numbers up to 15 steps on the way to it and back.
    steps = np.repeat(np.abs(grid.steps()), scheme.group or 200, axis=1)[:, :200]
    slack = 2.0**-22 * (np.abs(matrix) + 15 * steps)
    for code in range(grid.low, grid.high + 1):
        other = np.abs(grid.values(np.full(matrix.shape, code)).astype(np.float64) - matrix)
        assert (error <= other + slack).all()


def test_int8_rows_are_those_of_quantize_rows() -> None:
    matrix = weights(70, 33)
    matrix[5] = 0
    expected = quantize_rows(matrix)
    for result in (
        round_to_grid(matrix, rows_grid(expected.scale)),
        round_to_grid(matrix, choose_grid(matrix, Scheme(), method="absmax")),
    ):
        np.testing.assert_array_equal(result.q, expected.q)
        np.testing.assert_array_equal(result.scale, expected.scale)
        assert result.noise == pytest.approx(expected.noise, rel=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_on_the_grid_stays(scheme: Scheme) -> None:
    matrix = weights(20, 256)
    first = round_to_grid(matrix, choose_grid(matrix, scheme))
    on_grid = first.dequantize(256)
    second = round_to_grid(on_grid, grid_of(first))
    np.testing.assert_array_equal(second.q, first.q)
    np.testing.assert_array_equal(second.dequantize(256), on_grid)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_powers_of_two_scale_exactly(scheme: Scheme) -> None:
    matrix = weights(20, 128)
    factor = np.float32(2.0) ** np.arange(-10, 10, dtype=np.float32)[:, None]
    first, second = (round_to_grid(m, choose_grid(m, scheme)) for m in (matrix, matrix * factor))
    np.testing.assert_array_equal(second.q, first.q)
    np.testing.assert_array_equal(second.dequantize(128), first.dequantize(128) * factor)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_edges(scheme: Scheme) -> None:
    """Zeros, large and smallest numbers, and a group far smaller than its neighbour."""
    smallest = np.finfo(np.float32).smallest_subnormal
    matrix = np.zeros((7, 256), np.float32)
    matrix[1, ::2], matrix[1, 1::2] = 1e38, -1e38
    matrix[2] = smallest
    matrix[3, :128], matrix[3, 128:] = 1e30, 1e-30
    matrix[4] = -3
    matrix[5, 77] = 1e-38
    matrix[6] = np.linspace(-1, 1, 256)
    result = round_to_grid(matrix, choose_grid(matrix, scheme))
    found = result.dequantize(256)
    assert np.isfinite(found).all() and np.isfinite(result.scale).all()
    assert (found[0] == 0).all() and (found[3, 128:] == 0).all()
    # A constant is a last level: what is left is the rounding of scales (float32, half).
    np.testing.assert_allclose(found[[1, 3, 4], :128], matrix[[1, 3, 4], :128], rtol=0.07)
    np.testing.assert_allclose(found[4], matrix[4], rtol=2.0**-10)


def test_schemes_that_do_not_exist() -> None:
    with pytest.raises(OptionError, match="group: expected 0 for int8 rows, or one of .*, found 48"):
        Scheme(48)
    with pytest.raises(OptionError, match="zero points: expected int4 groups, found int8 rows"):
        Scheme(0, zero_points=True)

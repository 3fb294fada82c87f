"""Layer normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from .bounds import UNIT, assert_within, chain
from .memory import EDGES, output, placed

SIZES = (*range(1, 19), 31, 32, 33, 63, 64, 65, 127, 129, 255, 257, 512, 1023, 1024)
EPSILON = 1e-5


def norm(kernels, x, weight, bias, epsilon: float = EPSILON, edge: str = "end", in_place: bool = False):
    y = output(x.shape, np.float32, edge)
    if in_place:
        y.array[:] = x
    source = y.array if in_place else placed(x, edge)
    kernels.norm(source, placed(weight, edge), placed(bias, edge), epsilon, y.array)
    y.assert_clean_outside()
    return y.array.copy()


def random_rows(n: int, offset: float = 0.0, size: float = 1.0):
    rng = np.random.default_rng(n)
    x, weight, bias = rng.normal(offset, size, n), rng.normal(1, 0.2, n), rng.normal(0, 1, n)
    return x.astype(np.float32), weight.astype(np.float32), bias.astype(np.float32)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("n", SIZES)
def test_same_bytes_as_the_reference(kernels, reference, n: int, edge: str) -> None:
    rows = random_rows(n, 0.5, 3)
    expected = norm(reference, *rows)
    assert norm(kernels, *rows, edge=edge).tobytes() == expected.tobytes()
    assert norm(kernels, *rows, edge=edge, in_place=True).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (3, 1), (-100, 0.1), (0, 1e4), (0, 1e-4)])
@pytest.mark.parametrize("n", SIZES)
def test_against_float64(reference, n: int, offset: float, size: float) -> None:
    x, weight, bias = random_rows(n, offset, size)
    wide = x.astype(np.float64)
    mean = wide.mean()
    centred = wide - mean
    variance = (centred**2).mean()
    expected = centred / np.sqrt(variance + EPSILON) * weight + bias

    # Every rounding, carried through: of the mean, of x - mean, of the variance, of 1 / sqrt, of the result.
    steps = chain(n) + 2
    error_of_mean = steps * UNIT * np.abs(wide).mean()
    error_of_centred = error_of_mean + UNIT * np.abs(centred)
    error_of_variance = (2 * np.abs(centred) * error_of_centred + error_of_centred**2).mean()
    error_of_variance += steps * UNIT * variance + 2 * UNIT * (variance + EPSILON)
    relative = 0.5 * error_of_variance / (variance + EPSILON) + 2 * UNIT
    inverse = 1 / np.sqrt(variance + EPSILON)
    bound = np.abs(weight) * inverse * (error_of_centred + np.abs(centred) * (relative + UNIT))
    assert_within(norm(reference, x, weight, bias), expected, 1.01 * (bound + UNIT * np.abs(expected)))


@pytest.mark.parametrize("value", [0.0, 1.0, -7.25])
@pytest.mark.parametrize("n", [1, 8, 17, 64])
def test_a_constant_row_becomes_the_bias(kernels, n: int, value: float) -> None:
    _, weight, bias = random_rows(n)
    np.testing.assert_array_equal(norm(kernels, np.full(n, value, np.float32), weight, bias), bias)


def test_two_values(kernels) -> None:
    """The textbook case: 1 and 3 have mean 2 and deviation 1."""
    x, ones, zeros = np.array([1, 3], np.float32), np.ones(2, np.float32), np.zeros(2, np.float32)
    assert_within(norm(kernels, x, ones, zeros, 1e-12), np.array([-1, 1]), 2 * UNIT)

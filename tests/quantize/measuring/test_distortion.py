"""Output errors from Gram matrices are those of the outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyengine.quantize.measuring.distortion import output_error, output_power, snr_db

from ..layers import gram, inputs, weights


def test_it_is_the_error_of_the_outputs() -> None:
    matrix, x = weights(2100, 30), inputs(100, 30)
    rounded = np.round(matrix, 1)
    exact, other = (x.astype(np.float64) @ m.T.astype(np.float64) for m in (matrix, rounded))
    np.testing.assert_allclose(output_power(matrix, gram(x)), np.square(exact).sum(axis=0), rtol=1e-9)
    expected = np.square(other - exact).sum() / np.square(exact).sum()
    assert output_error(matrix, rounded, gram(x)) == pytest.approx(expected, rel=1e-9)


def test_edges() -> None:
    matrix = weights(4, 5)
    assert output_error(matrix, matrix, np.eye(5)) == 0
    assert output_error(matrix, -matrix, np.zeros((5, 5))) == 0
    assert output_error(0 * matrix, matrix, np.eye(5)) == math.inf
    assert output_error(matrix, 0 * matrix, np.eye(5)) == 1
    assert (snr_db(100, 1), snr_db(1, 0), snr_db(0, 1)) == (20, math.inf, math.inf)

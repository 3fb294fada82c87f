"""Scale refit: least squares, never worse in the metric it fits."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.quantize.measuring.distortion import output_power
from pyengine.quantize.rounding.gptq import gptq
from pyengine.quantize.rounding.grid import grid_of, round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.refit import refit
from pyengine.quantize.rounding.schemes import Scheme, quantize_rows

from ..layers import SCHEMES, gram, inputs, weights


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("whole", (False, True))
def test_no_channel_gets_worse(scheme: Scheme, whole: bool) -> None:
    matrix, full = weights(150, 200), gram(inputs(700, 200))
    moments = full if whole else np.diag(full)
    metric = full if whole else np.diag(np.diag(full))
    before = round_to_grid(matrix, choose_grid(matrix, scheme, method="absmax"))
    if whole:
        before = gptq(matrix, grid_of(before), full)
    after = refit(matrix, before, moments)
    errors = [output_power(m.dequantize(200) - matrix.astype(np.float64), metric) for m in (before, after)]
    assert (errors[1] <= errors[0] * (1 + 1e-4)).all()  # float32 weights, of which the metric knows nothing
    assert errors[1].sum() < 0.999 * errors[0].sum()
    assert type(after) is type(before)
    if whole:
        np.testing.assert_array_equal(after.q, before.q)


def test_the_formula() -> None:
    """int8 rows: s = (w H q) / (q H q), with a diagonal and with a whole H."""
    matrix, full = weights(20, 60), gram(inputs(200, 60))
    before = quantize_rows(matrix)
    q, w = before.q.astype(np.float64), matrix.astype(np.float64)
    for moments, metric in ((np.diag(full), np.diag(np.diag(full))), (full, full)):
        expected = np.einsum("nj,jk,nk->n", w, metric, q) / np.einsum("nj,jk,nk->n", q, metric, q)
        np.testing.assert_allclose(refit(matrix, before, moments).scale, expected, rtol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scales_are_found_again(scheme: Scheme) -> None:
    """Weights that lie on a grid whose steps are 3% larger: the steps grow by 3%."""
    matrix = weights(30, 256)
    exact = round_to_grid(matrix, choose_grid(matrix, scheme))
    grown = exact.dequantize(256) * np.float32(1.03)
    before, after = grid_of(exact), grid_of(refit(grown, exact, np.eye(256)))
    np.testing.assert_allclose(after.steps(), before.steps() * 1.03, rtol=2.0**-10)


def test_a_fixed_point_and_zeros() -> None:
    matrix = weights(10, 64)
    matrix[3] = 0
    for scheme in SCHEMES:
        result = round_to_grid(matrix, choose_grid(matrix, scheme))
        on_grid = result.dequantize(64)
        again = refit(on_grid, result, np.ones(64))
        np.testing.assert_array_equal(again.dequantize(64), on_grid)

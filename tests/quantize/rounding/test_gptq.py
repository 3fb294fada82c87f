"""GPTQ: plain rounding without correlation, never worse with it."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import InputError
from pyengine.quantize.measuring.distortion import output_power
from pyengine.quantize.rounding import gptq as module
from pyengine.quantize.rounding.gptq import gptq
from pyengine.quantize.rounding.grid import Grid, round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.schemes import Scheme

from ..layers import INT8, SCHEMES, gram, inputs, weights


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", ((3, 5), (1100, 64), (40, 300)))
def test_without_correlation_it_is_plain_rounding(scheme: Scheme, shape: tuple[int, int]) -> None:
    matrix = weights(*shape)
    grid = choose_grid(matrix, scheme)
    plain = round_to_grid(matrix, grid)
    for metric in (np.eye(shape[1]), np.diag(np.arange(shape[1], dtype=np.float64))):
        result = gptq(matrix, grid, metric)
        assert type(result) is type(plain)
        np.testing.assert_array_equal(result.q, plain.q)
        np.testing.assert_array_equal(result.dequantize(shape[1]), plain.dequantize(shape[1]))
        assert result.noise == plain.noise


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_better_than_plain_rounding(scheme: Scheme, seed: int) -> None:
    """No channel is worse, and together they are much better: inputs span a third of the dimensions, nearly."""
    matrix, metric = weights(80, 200, seed), gram(inputs(1000, 200, seed))
    grid = choose_grid(matrix, scheme, weights=np.diag(metric))
    errors = [
        output_power(m.dequantize(200) - matrix.astype(np.float64), metric)
        for m in (gptq(matrix, grid, metric), round_to_grid(matrix, grid))
    ]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all()
    assert errors[0].sum() < 0.5 * errors[1].sum()


def reference(matrix: np.ndarray, grid: Grid, metric: np.ndarray) -> np.ndarray:
    """The weights after the algorithm as the paper has it: an inverse that shrinks, column by column, in float64."""
    columns = len(metric)
    damped = metric + 0.01 * np.diag(np.diag(metric))
    work, result = matrix.astype(np.float64), np.empty(matrix.shape)
    left = list(np.argsort(-np.diag(metric), kind="stable"))
    while left:
        k = left[0]
        whole = np.zeros_like(matrix)
        whole[:, k] = work[:, k]
        result[:, k] = grid.values(grid.round(whole))[:, k]
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        error = (work[:, k] - result[:, k]) / inverse[0, 0]
        work[:, left] -= np.outer(error, inverse[0])
        left.pop(0)
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_algorithm_written_out(scheme: Scheme) -> None:
    """Bit for bit but where float32 falls on the other side of a tie, which then leads elsewhere: hardly ever."""
    matrix, metric = weights(60, 150), gram(inputs(600, 150))
    grid = choose_grid(matrix, scheme)
    expected = reference(matrix, grid, metric)
    found = gptq(matrix, grid, metric).dequantize(150)
    plain = round_to_grid(matrix, grid).dequantize(150)
    same = np.isclose(found, expected, rtol=1e-5, atol=1e-7).all(axis=1) | (found == plain).all(axis=1)
    assert same.mean() > 0.8


def test_triangular_inverse() -> None:
    generator = np.random.default_rng(0)
    for size in (1, 63, 64, 65, 200):
        upper = np.triu(generator.standard_normal((size, size))) / size + np.eye(size)
        inverse = module._triangular_inverse(upper)
        np.testing.assert_array_equal(inverse, np.triu(inverse))
        np.testing.assert_allclose(inverse @ upper, np.eye(size), atol=1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_inputs_never_seen_are_rounded_plainly(scheme: Scheme) -> None:
    matrix, x = weights(30, 100), inputs(400, 100)
    dead = [0, 7, 50, 99]
    x[:, dead] = 0
    grid = choose_grid(matrix, scheme)
    result, plain = gptq(matrix, grid, gram(x)), round_to_grid(matrix, grid)
    np.testing.assert_array_equal(result.q[:, dead], plain.q[:, dead])
    nothing = gptq(matrix, grid, np.zeros((100, 100)))
    np.testing.assert_array_equal(nothing.q, plain.q)


def test_fewer_rows_than_inputs_and_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, metric = weights(30, 100), gram(inputs(10, 100))
    grid = choose_grid(matrix, INT8)
    tried: list[float] = []
    factor = module._factor

    def watched(metric: np.ndarray, damping: float) -> np.ndarray | None:
        tried.append(damping)
        return factor(metric, damping)

    monkeypatch.setattr(module, "_factor", watched)
    gptq(matrix, grid, metric)
    assert tried == [0.01]
    tried.clear()
    indefinite = metric - 0.05 * np.diag(np.diag(metric))
    gptq(matrix, grid, indefinite)
    assert tried == pytest.approx([0.01, 0.1])
    metric[3, 3] = np.nan
    with pytest.raises(InputError, match="gram: expected a finite positive semidefinite matrix"):
        gptq(matrix, grid, metric)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_channels_on_their_own(scheme: Scheme) -> None:
    """Codes of a channel are those it gets in a matrix of its own, but where sums in another order tip a tie."""
    matrix, metric = weights(1030, 64), gram(inputs(300, 64))
    whole = gptq(matrix, choose_grid(matrix, scheme), metric).dequantize(64)
    part = matrix[1000:]
    alone = gptq(part, choose_grid(part, scheme), metric).dequantize(64)
    assert (whole[1000:] == alone).all(axis=1).mean() > 0.9

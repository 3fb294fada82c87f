"""Static ranges of inputs: against searches written out, products themselves, and laws of rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyengine.quantize.scaling.smooth import smoothing_scales
from pyengine.quantize.seeing.static_ranges import STATIC, input_errors, sampled_errors, static_ranges

from ..layers import inputs, weights
from ..rounding.test_ranges import kl_reference


def rounded(x: np.ndarray, limit: float) -> np.ndarray:
    step = limit / 127
    return np.clip(np.rint(x.astype(np.float64) / step), -127, 127) * step


def of_many_sizes(count: int, columns: int) -> np.ndarray:
    """Rows whose sizes differ by factors of e on the average."""
    sizes = np.exp(np.random.default_rng(7).standard_normal((count, 1)))
    return (inputs(count, columns) * sizes).astype(np.float32)


def test_each_range_written_out() -> None:
    x = inputs(40, 30)
    found = static_ranges(x)
    assert tuple(found) == STATIC
    values = np.sort(np.abs(x.astype(np.float64)).ravel())
    assert found["absmax"] == pytest.approx(values[-1], rel=1e-6)
    place = 0.9999 * (len(values) - 1)
    low, part = int(place), place - int(place)
    assert found["percentile"] == pytest.approx(values[low] * (1 - part) + values[low + 1] * part, rel=1e-6)

    def error(limit: float) -> float:
        return float(np.square(rounded(x, limit) - x).sum())

    least = min(error(ratio * values[-1]) for ratio in np.linspace(0.4, 1, 61))
    assert error(found["mse"]) == pytest.approx(least, rel=1e-3)
    counts = [0] * 2048
    for value in values:
        counts[min(2047, int(value / values[-1] * 2048))] += 1
    assert found["kl"] == pytest.approx(kl_reference(counts) * values[-1] / 2048, rel=1e-6)


def test_errors_are_those_of_the_products() -> None:
    x, matrix = of_many_sizes(50, 24), weights(2100, 24)
    found = input_errors(matrix, x, {"one": 3.0, "other": 0.5})
    exact = x.astype(np.float64) @ matrix.T.astype(np.float64)

    def error(other: np.ndarray) -> float:
        return float(np.square(other @ matrix.T - exact).sum() / np.square(exact).sum())

    assert found.static == pytest.approx({"one": error(rounded(x, 3.0)), "other": error(rounded(x, 0.5))}, rel=1e-4)
    by_row = np.concatenate([rounded(row, float(np.abs(row).max())) for row in x]).reshape(x.shape)
    assert found.dynamic == pytest.approx(error(by_row), rel=1e-4)


def test_rows_that_choose_do_not_measure() -> None:
    x, matrix = of_many_sizes(60, 16), weights(20, 16)
    found = sampled_errors(matrix, x)
    assert found.ranges == static_ranges(x[[*range(0, 60, 2)]])
    assert found == input_errors(matrix, x[[*range(1, 60, 2)]], found.ranges)


@pytest.mark.parametrize("seed", range(4))
def test_a_scale_a_row_is_no_worse_than_one_for_all(seed: int) -> None:
    """No step of a row is above that of absmax. Equal steps give equal errors; smaller ones, on rows of very different
    sizes, errors that are smaller by far more than the noise of rounding."""
    x, matrix = inputs(80, 48, seed), weights(32, 48, seed)
    alike = x / np.abs(x).max(axis=1, keepdims=True)
    found = input_errors(matrix, alike, static_ranges(alike))
    assert found.dynamic == found.static["absmax"] > 0
    different = of_many_sizes(80, 48)
    found = input_errors(matrix, different, static_ranges(different))
    assert 0 < found.dynamic < 0.5 * found.static["absmax"]


def test_a_scale_a_row_does_not_see_how_large_rows_are() -> None:
    """Rows times powers of 2: each row's own share of the error stays."""
    x, matrix = inputs(9, 20), weights(6, 20)
    for row, exponent in zip(x, range(-40, 50, 10)):
        once, scaled = (sampled_errors(matrix, np.stack([row, row * np.float32(2.0**n)])) for n in (0, exponent))
        assert scaled.dynamic == once.dynamic


def test_zeros_change_nothing_for_kl() -> None:
    """What a ReLU lets through is counted, what it holds back is exact in any range."""
    x = np.maximum(inputs(120, 40), 0)
    used = x[x > 0].reshape(-1, 1)
    with_zeros, without = (static_ranges(each) for each in (x, used))
    assert len(used) < x.size and with_zeros["kl"] == without["kl"] > 0
    assert with_zeros["mse"] == without["mse"]


def test_what_helps_against_an_outlier_channel_helps_both() -> None:
    """A channel that is large in every row makes a row's step as coarse as the static one: scales take both back."""
    x, matrix = np.random.default_rng(0).standard_normal((400, 64)).astype(np.float32), weights(48, 64)
    x[:, 3] *= 60
    scales = smoothing_scales(np.abs(x).max(axis=0), np.abs(matrix).max(axis=0), 0.5)
    before, after = sampled_errors(matrix, x), sampled_errors(matrix * scales, x / scales)
    assert after.dynamic < 0.1 * before.dynamic and after.static["absmax"] < 0.1 * before.static["absmax"]


def test_nothing_but_zeros() -> None:
    matrix, zeros, some = weights(5, 8), np.zeros((2, 8), np.float32), inputs(2, 8)
    assert static_ranges(zeros) == dict.fromkeys(STATIC, 0.0)
    found = input_errors(matrix, zeros, static_ranges(some))
    assert found.dynamic == 0 and set(found.static.values()) == {0.0}
    assert set(input_errors(matrix, some, static_ranges(zeros)).static.values()) == {1.0}
    unseen = matrix * np.array([0] + [1] * 7, np.float32)
    only = np.array([[0.3, 0, 0, 0, 0, 0, 0, 0], [0.3, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    assert sampled_errors(unseen, only).dynamic == 0
    tiny = np.full((2, 8), 1e-40, np.float32)
    assert all(math.isfinite(limit) for limit in static_ranges(tiny).values())

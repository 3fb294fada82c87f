"""Ranges: against searches written out, and the laws between methods."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.rounding.grid import Grid, grouped, round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid, kl_threshold
from pyengine.quantize.rounding.schemes import Scheme

from ..layers import FOURS, INT8, SCHEMES, gram, inputs, weights


def weighted_error(matrix: np.ndarray, grid: Grid, moments: np.ndarray | None) -> float:
    error = round_to_grid(matrix, grid).dequantize(matrix.shape[1]).astype(np.float64) - matrix
    return float((np.square(error) * (1 if moments is None else moments)).sum())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("weighted", (False, True))
def test_mse_is_no_worse_than_absmax(scheme: Scheme, weighted: bool) -> None:
    matrix = weights(300, 192)
    moments = given = np.diag(gram(inputs(500, 192))) if weighted else None
    if scheme.group and not weighted:  # large weights count more
        magnitudes = np.abs(grouped(matrix, scheme))
        root = np.sqrt(np.square(magnitudes).mean(axis=2, keepdims=True))
        moments = (magnitudes + root).reshape(300, -1)[:, :192]
    absmax, mse = (
        weighted_error(matrix, choose_grid(matrix, scheme, method=method, weights=given), moments)
        for method in ("absmax", "mse")
    )
    # The candidates are compared before steps become halves: each within 2^-11 of the weight.
    share = np.square(matrix, dtype=np.float64) * (1 if moments is None else moments)
    halves = 2.0**-11 * np.sqrt(share.sum()) if scheme.group else 0
    assert np.sqrt(mse) <= np.sqrt(absmax) * (1 + 1e-6) + halves
    if weighted:
        assert mse < weighted_error(matrix, choose_grid(matrix, scheme), moments)


def test_the_int8_search_written_out() -> None:
    matrix = weights(6, 90)
    moments = np.linspace(0.1, 3, 90)
    scales = choose_grid(matrix, INT8, weights=moments).scale
    for row, scale in zip(matrix.astype(np.float64), scales):
        largest = np.abs(row).max() / 127

        def error(step: float) -> float:
            return float((moments * np.square(row - step * np.clip(np.rint(row / step), -127, 127))).sum())

        least = min(error(c * largest) for c in np.linspace(0.4, 1, 61))
        assert error(float(scale)) == pytest.approx(least, rel=1e-3)


@pytest.mark.parametrize("sign", (-1, 1))
def test_the_long_side_of_the_levels(sign: int) -> None:
    """A group whose largest weight is 8 steps to one side, and 7 to the other, is exact; so is one of 7 and 7."""
    codes = np.arange(-8, 8, dtype=np.float32).repeat(2)[None]
    matrix = np.float32(sign * 0.25) * codes
    result = round_to_grid(matrix, choose_grid(matrix, Scheme(32), method="absmax"))
    np.testing.assert_array_equal(result.dequantize(32), matrix)
    assert np.signbit(result.group_scale[0, 0]) == (sign < 0)
    even = np.clip(matrix, -1.75, 1.75)
    back = round_to_grid(even, choose_grid(even, Scheme(32), method="absmax")).dequantize(32)
    np.testing.assert_allclose(back, even, rtol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_channels_do_not_depend_on_each_other(scheme: Scheme) -> None:
    matrix = weights(2000, 96)  # several blocks
    whole = choose_grid(matrix, scheme)
    for row in (0, 682, 683, 1999):
        alone = choose_grid(matrix[row : row + 1], scheme)
        np.testing.assert_array_equal(alone.steps()[0], whole.steps()[row])
        np.testing.assert_array_equal(alone.zeros()[0], whole.zeros()[row])


@pytest.mark.parametrize("scheme", FOURS)
def test_gram_weights_count_the_output_of_each_group(scheme: Scheme) -> None:
    """With a diagonal Gram matrix as with its diagonal; else no worse than any other grid, group by group."""
    matrix, x = weights(60, 200), inputs(900, 200)
    full = gram(x)
    diagonal = np.diag(full)
    by_vector, by_matrix = (choose_grid(matrix, scheme, weights=w) for w in (diagonal, np.diag(diagonal)))
    np.testing.assert_allclose(by_matrix.steps(), by_vector.steps(), rtol=1e-3)
    losses = []
    for moments in (full, diagonal):
        result = round_to_grid(matrix, choose_grid(matrix, scheme, weights=moments))
        error = grouped(result.dequantize(200) - matrix.astype(np.float64), scheme)
        seen = grouped(x.astype(np.float64), scheme)
        losses.append(np.square(np.einsum("tgk,ngk->ngt", seen, error)).sum())
    assert losses[0] < losses[1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_percentile_clips(scheme: Scheme) -> None:
    matrix = np.tile(np.linspace(-1, 1, 128, dtype=np.float32), (3, 1))
    matrix[:, 40] = 100
    every = choose_grid(matrix, scheme, method="absmax").steps()
    clipped = choose_grid(matrix, scheme, method="percentile", percentile=0.95).steps()
    assert (np.abs(clipped).max(axis=1) < 0.5 * np.abs(every).max(axis=1)).all()
    whole = choose_grid(matrix, scheme, method="percentile", percentile=1).steps()
    np.testing.assert_array_equal(whole, every)


def test_options() -> None:
    matrix = weights(2, 32)
    with pytest.raises(OptionError, match="method: expected one of .*, found 'minmax'"):
        choose_grid(matrix, INT8, method="minmax")
    with pytest.raises(OptionError, match="percentile: expected a number in .*, found 0"):
        choose_grid(matrix, INT8, method="percentile", percentile=0)


def kl_reference(counts: list[int]) -> int:
    """The threshold in bins, one number after the other."""
    best, least = len(counts), float("inf")
    for bins in range(128, len(counts) + 1):
        p = [float(count) for count in counts[:bins]]
        p[-1] += sum(counts[bins:])
        levels: list[list[int]] = [[] for _ in range(128)]
        for i in range(bins):
            levels[i * 128 // bins].append(i)
        q = [0.0] * bins
        for members in levels:
            held = [i for i in members if counts[i]]
            for i in held:
                q[i] = sum(counts[j] for j in members) / len(held)
        if any(a > 0 and b == 0 for a, b in zip(p, q)):
            continue
        divergence = sum(a / sum(p) * np.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q) if a > 0)
        if divergence < least - 1e-12:
            best, least = bins, divergence
    return best


@pytest.mark.parametrize("seed", range(4))
def test_kl_written_out(seed: int) -> None:
    values = np.abs(np.random.default_rng(seed).standard_t(2, 4000))
    counts, edges = np.histogram(values, 160, (0, values.max()))
    width = float(edges[1])
    assert kl_threshold(counts, width) == pytest.approx(kl_reference(counts.tolist()) * width)


def test_kl_cuts_an_outlier_and_keeps_what_128_levels_hold() -> None:
    counts = np.zeros(2048)
    counts[:300] = np.exp(-np.arange(300) / 80) * 1e6
    counts[-1] = 1
    assert kl_threshold(counts, 0.5) <= 150
    assert kl_threshold(np.ones(128), 0.5) == 64
    for bad in (np.ones(100), np.zeros(200)):
        with pytest.raises(OptionError, match="histogram: expected 128 bins or more with counts"):
            kl_threshold(bad, 1.0)

"""Block influence by hand, and the fit at a cut against least squares."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.quantize.prune.layers import block_influence, fit_channels, fold_into_norm

from .layers import inputs


def means(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return tuple(values.mean(axis=0) for values in (x, y, x * x, x * y))


def test_block_influence() -> None:
    x = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    assert block_influence(x[:2], 7 * x[:2]) == pytest.approx(0.0, abs=1e-12)
    assert block_influence(x[:2], -x[:2]) == pytest.approx(2.0)
    assert block_influence(x[:1], np.array([[4.0, -3.0]])) == pytest.approx(1.0)
    assert block_influence(x, x) == pytest.approx(1 / 3)  # the row of zeros


def test_the_fit_is_least_squares_in_each_channel() -> None:
    x = inputs(0, 100, 5)
    y = inputs(1, 100, 5) + 2 * x
    scale, shift = fit_channels(*means(x, y))
    for channel in range(5):
        slope, intercept = np.polyfit(x[:, channel].astype(np.float64), y[:, channel], 1)
        assert scale[channel] == pytest.approx(slope, rel=1e-4)
        assert shift[channel] == pytest.approx(intercept, rel=1e-3, abs=1e-3)
    before = np.square(x - y).sum(axis=0)
    after = np.square(scale * x + shift - y).sum(axis=0)
    assert (after <= before * 1.000001).all()


def test_channels_that_do_not_vary_keep_their_scale() -> None:
    x = np.full((10, 2), 0.1, np.float32)
    scale, shift = fit_channels(*means(x, x + inputs(2, 10, 2)))
    np.testing.assert_array_equal(scale, [1, 1])
    np.testing.assert_allclose(shift, inputs(2, 10, 2).mean(axis=0), rtol=1e-4)


def test_a_norm_takes_in_the_fit() -> None:
    x, (gain, bias, scale, shift) = inputs(3, 4, 6), inputs(4, 4, 6)
    new_gain, new_bias = fold_into_norm(gain, bias, scale, shift)
    np.testing.assert_allclose(new_gain * x + new_bias, scale * (gain * x + bias) + shift, rtol=1e-4, atol=1e-4)

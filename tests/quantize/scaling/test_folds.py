"""Scales of smoothing, AWQ and equalization, and bias correction: searches choose what they say."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.canonical import tensor_specs
from pyengine.errors import OptionError
from pyengine.quantize.measuring.distortion import output_error
from pyengine.quantize.rounding.correction import corrected_bias
from pyengine.quantize.rounding.grid import round_to_grid
from pyengine.quantize.rounding.ranges import choose_grid
from pyengine.quantize.rounding.schemes import Scheme, quantize_rows
from pyengine.quantize.scaling.awq import awq_scales, clipped_grid, search_awq
from pyengine.quantize.scaling.equalize import equalizing_scales
from pyengine.quantize.scaling.fold import Place, places
from pyengine.quantize.scaling.keys import search_key_scales
from pyengine.quantize.scaling.smooth import search_smoothing, smoothing_scales

from ...canonical.configs import decoder_only, random_config
from ..layers import FOURS, INT8, SCHEMES, gram, inputs, weights

EPSILON = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("activation", (lambda y: y, lambda y: np.maximum(y, 0)))
def test_equalization_changes_no_output(activation) -> None:
    up, down, x = weights(40, 30), weights(20, 40, 1), inputs(60, 30)
    bias = np.random.default_rng(1).standard_normal(40).astype(np.float32)
    up[3], down[:, 8] = 0, 0
    scales = equalizing_scales(up, down)
    assert scales[3] == scales[8] == 1 and (scales > 0).all()
    rounded = np.exp2(np.rint(np.log2(scales))).astype(np.float32)
    before = activation(x @ up.T + bias) @ down.T
    after = activation(x @ (up / rounded[:, None]).T + bias / rounded)
    np.testing.assert_array_equal(after @ (down * rounded).T, before)

    new_up, new_down = up / scales[:, None], down * scales
    used = (np.arange(40) != 3) & (np.arange(40) != 8)
    before_range, behind = np.abs(new_up).max(axis=1)[used], np.abs(new_down).max(axis=0)[used]
    np.testing.assert_allclose(before_range, behind, rtol=8 * EPSILON)
    product = np.abs(up).max(axis=1)[used] * np.abs(down).max(axis=0)[used]
    np.testing.assert_allclose(before_range, np.sqrt(product), rtol=8 * EPSILON)
    np.testing.assert_allclose(equalizing_scales(new_up, new_down), 1, rtol=8 * EPSILON)
    after = activation(x @ new_up.T + bias / scales) @ new_down.T
    bound = 80 * EPSILON * ((np.abs(x) @ np.abs(up).T + np.abs(bias)) @ np.abs(down).T)
    assert (np.abs(after - before) <= bound).all()


def test_smoothing_scales() -> None:
    """At 1 inputs become even, at 0 weights do; half way both have the same range."""
    x, matrix = np.abs(inputs(200, 30)).max(axis=0), np.abs(weights(50, 30)).max(axis=0)
    np.testing.assert_allclose(x / smoothing_scales(x, matrix, 1.0), 1, rtol=4 * EPSILON)
    np.testing.assert_allclose(matrix * smoothing_scales(x, matrix, 0.0), 1, rtol=4 * EPSILON)
    scales = smoothing_scales(x, matrix, 0.5)
    np.testing.assert_allclose(x / scales, matrix * scales, rtol=8 * EPSILON)
    x[4], matrix[6] = 0, 0
    assert smoothing_scales(x, matrix, 0.5)[[4, 6]].tolist() == [1, 1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_smoothing_search(scheme: Scheme) -> None:
    """What it reports is the error of layers computed with rounded inputs and weights."""
    matrix, x = weights(60, 96), inputs(128, 96)
    x[:, 17] *= 50  # an outlier channel
    found = search_smoothing(matrix, x, np.abs(x).max(axis=0), np.abs(matrix).max(axis=0), scheme)
    assert found.alpha is not None and found.error < 0.5 * found.error_before

    def error(scales: np.ndarray) -> float:
        inputs8 = quantize_rows(x / scales)
        scaled = matrix * scales
        rounded = round_to_grid(scaled, choose_grid(scaled, scheme, method="absmax")).dequantize(96)
        y = (inputs8.q * inputs8.scale[:, None].astype(np.float64)) @ rounded.T
        exact = x.astype(np.float64) @ matrix.T
        return float(np.square(y - exact).sum() / np.square(exact).sum())

    assert found.error == pytest.approx(error(found.scales), rel=1e-3)
    assert found.error_before == pytest.approx(error(np.ones(96, np.float32)), rel=1e-3)
    again = search_smoothing(matrix, x, np.abs(x).max(axis=0), np.abs(matrix).max(axis=0), scheme)
    np.testing.assert_array_equal(again.scales, found.scales)


def test_nothing_better_means_no_scales() -> None:
    matrix, x = np.ones((4, 32), np.float32), np.ones((8, 32), np.float32)
    for found in (
        search_smoothing(matrix, x, np.ones(32), np.ones(32), INT8),
        search_awq(matrix, np.ones(32), gram(x), Scheme(32)),
    ):
        assert found.alpha is None and (found.scales == 1).all() and found.error == found.error_before


def test_awq_scales() -> None:
    mean = np.array([4, 1, 0.25, 0])
    np.testing.assert_allclose(awq_scales(mean, 0.5), [2, 1, 0.5, 0.5])
    np.testing.assert_array_equal(awq_scales(mean, 0.0), np.ones(4))
    np.testing.assert_array_equal(awq_scales(np.zeros(3), 0.5), np.ones(3))


@pytest.mark.parametrize("scheme", FOURS)
def test_the_awq_search(scheme: Scheme) -> None:
    matrix, x = weights(60, 160), inputs(400, 160)
    metric = gram(x)
    found = search_awq(matrix, np.abs(x).mean(axis=0), metric, scheme)
    assert found.alpha is not None and found.error < 0.9 * found.error_before
    scaled = matrix * found.scales
    rounded = round_to_grid(scaled, choose_grid(scaled, scheme, method="absmax")).dequantize(160)
    exact = x.astype(np.float64) @ matrix.T
    error = np.square(x / found.scales.astype(np.float64) @ rounded.T - exact).sum() / np.square(exact).sum()
    assert found.error == pytest.approx(error, rel=1e-4)
    # The clip, on the scaled weights and for the inputs that they see.
    seen = metric / np.outer(found.scales, found.scales)
    clipped = round_to_grid(scaled, clipped_grid(scaled, scheme, seen)).dequantize(160)
    assert output_error(scaled, clipped, seen) < found.error


def test_no_clip_of_rows() -> None:
    with pytest.raises(OptionError, match="clip: expected int4 groups, found int8 rows"):
        clipped_grid(weights(3, 32), INT8, np.eye(32))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bias_correction_is_exact_for_the_mean(scheme: Scheme) -> None:
    matrix, x = weights(40, 64), inputs(300, 64)
    mean = x.mean(axis=0, dtype=np.float64)
    rounded = round_to_grid(matrix, choose_grid(matrix, scheme)).dequantize(64)
    bias = np.linspace(-1, 1, 40, dtype=np.float32)
    for old in (bias, None):
        new = corrected_bias(old, matrix, rounded, mean)
        assert new.dtype == np.float32
        exact = x.astype(np.float64) @ matrix.T + (0 if old is None else old)
        found = x.astype(np.float64) @ rounded.T + new
        bound = EPSILON * np.abs(new) + 1e-9
        assert (np.abs((found - exact).mean(axis=0)) <= bound).all()
        assert (
            np.square(found - exact).sum()
            <= np.square(found - new + (0 if old is None else old) - exact).sum()
        )


@pytest.mark.parametrize("seed", range(6))
def test_places_name_tensors_that_there_are(seed: int) -> None:
    """Of any configuration; what is divided and what is multiplied have as many channels."""
    config = random_config(seed)
    shapes = {name: spec.shape for name, spec in tensor_specs(config).items()}
    for place in (place for place in places(config) if place.consumers):
        channels = {shapes[f"{consumer}.weight"][1] // place.group for consumer in place.consumers}
        assert channels == {shapes[f"{producer}.weight"][0] for producer in place.producers}, place


def test_places_of_a_decoder_alone() -> None:
    """Norms before sublayers, values of grouped heads, what a gate gates; a norm before a tied table is none."""
    untied = decoder_only(tie_output=False)
    found = {place.name: place.consumers for place in places(untied)}
    for layer in ("decoder.layers.0", "decoder.layers.1"):
        attention, ffn = f"{layer}.self_attention", f"{layer}.ffn"
        assert found.pop(f"{attention}.norm") == tuple(f"{attention}.{part}" for part in "qkv")
        assert found.pop(f"{attention}.v") == (f"{attention}.output",)
        assert found.pop(f"{ffn}.norm") == (f"{ffn}.gate", f"{ffn}.up")
        assert found.pop(f"{ffn}.up") == (f"{ffn}.down",)
    assert found.pop("decoder.layers.1.self_attention.k") == ()  # those of layer 0 have a norm of their own
    assert found == {"decoder.norm": ("output",)}
    assert [place.name for place in places(decoder_only())] == [place.name for place in places(untied)[:-1]]
    assert not places(untied)[-1].between_layers


def test_channels_of_groups() -> None:
    """Two key-value heads of width 3, three query heads to each: a channel is behind one column of each of these."""
    place = Place("v", ("v",), ("output",), "output", group=3, head_width=3)
    expected = [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]
    assert place.columns(np.arange(6)).tolist() == expected
    assert place.channels(np.arange(18)).tolist() == [6, 7, 8, 15, 16, 17]


def test_keys_meet_queries() -> None:
    """Of two heads of width 6, the first 4 channels of which turn: scales that are even change no score."""
    place = Place("k", ("k",), (), "q", group=2, head_width=6, queries=("q",), turning=4)
    scales = place.even(np.array([1, 2, 4, 8, 16, 32, 3, 5, 2, 7, 1, 9], np.float32))
    assert scales.tolist() == [4, 8, 4, 8, 16, 32, 3, 7, 3, 7, 1, 9]
    keys, queries = inputs(64, 12), inputs(48, 24, 1)
    keys[:, [1, 9]] *= 60
    found = search_key_scales(place, queries, keys, (0.3, 0.5, 0.7))
    assert found.alpha is not None and found.error < 0.7 * found.error_before
    np.testing.assert_array_equal(place.even(found.scales), found.scales)

    def scores(scales: np.ndarray, *, rounded: bool) -> np.ndarray:
        """[query heads, queries, keys], a head at a time."""
        every = []
        for head in range(4):
            own, other = slice(6 * head, 6 * head + 6), slice(6 * (head // 2), 6 * (head // 2) + 6)
            q, k = queries[:, own] * scales[other], keys[:, other] / scales[other]
            if rounded:
                q, k = (quantize_rows(np.ascontiguousarray(x)).dequantize(6) for x in (q, k))
            every.append(q.astype(np.float64) @ k.T)
        return np.stack(every)

    exact, moved = scores(np.ones(12), rounded=False), scores(found.scales, rounded=True)
    assert found.error == pytest.approx(np.square(moved - exact).sum() / np.square(exact).sum(), rel=1e-3)
    np.testing.assert_allclose(scores(found.scales, rounded=False), exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())

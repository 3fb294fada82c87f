"""Removing neurons and heads: exact where nothing is lost, never worse than removing alone."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine.errors import OptionError
from pyengine.quantize.prune.structured import NEURONS, head_removal, neuron_removal, reconstruct

from .layers import gram, inputs, weights


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    return gram(x), x.astype(np.float64).mean(axis=0), len(x)


def share(x: np.ndarray, w: np.ndarray, difference: np.ndarray) -> float:
    """The squares of ``difference`` as a share of the variance of the outputs of ``w``."""
    outputs = x.astype(np.float64) @ w.T
    return float(np.square(difference).sum() / np.square(outputs - outputs.mean(axis=0)).sum())


@pytest.mark.parametrize("count", (20, 400))
@pytest.mark.parametrize("steps", (0, 1, 3))
def test_errors_are_those_of_the_outputs(count: int, steps: int) -> None:
    x, w, b = inputs(0, count, 80), weights(1, 24, 80), weights(2, 1, 24)[0]
    found = reconstruct(w, b, *statistics(x), neuron_removal(w, *statistics(x), steps=steps).kept(steps, 80))
    assert found.weight.shape == (24, 80 - NEURONS * steps) and len(found.kept) == found.weight.shape[1]
    wide = x.astype(np.float64)
    whole = wide @ w.T + b
    fitted = wide[:, found.kept] @ found.weight.T + found.bias
    removed = wide[:, found.kept] @ w[:, found.kept].T + b
    assert found.error == pytest.approx(share(x, w, whole - fitted), rel=1e-5, abs=1e-12)
    assert found.removal_error == pytest.approx(share(x, w, whole - removed), rel=1e-5, abs=1e-12)
    assert found.error <= found.removal_error


@pytest.mark.parametrize("seed", range(6))
def test_never_worse_than_removing_alone(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, w, b = inputs(seed, int(random.integers(5, 200)), 48), weights(seed, 8, 48), weights(seed + 1, 1, 8)[0]
    kept = random.permutation(48)[: int(random.integers(1, 49))]
    for ridge in (1e-9, 1e-3, 10.0):
        found = reconstruct(w, b, *statistics(x), kept, ridge=ridge)
        assert found.error <= found.removal_error
        np.testing.assert_array_equal(found.kept, np.sort(kept))


def test_nothing_removed_changes_nothing() -> None:
    x, w, b = inputs(3, 50, 32), weights(4, 8, 32), weights(5, 1, 8)[0]
    found = reconstruct(w, b, *statistics(x), np.arange(32))
    np.testing.assert_array_equal(found.weight, w)
    np.testing.assert_array_equal(found.bias, b)
    assert found.error == found.removal_error == 0.0


def test_the_fit_is_least_squares_with_an_intercept() -> None:
    x, w, b = inputs(6, 300, 32), weights(7, 8, 32), weights(8, 1, 8)[0]
    kept = np.arange(0, 32, 2)
    found = reconstruct(w, b, *statistics(x), kept, ridge=1e-12)
    design = np.concatenate([x[:, kept], np.ones((300, 1))], axis=1).astype(np.float64)
    best = np.linalg.lstsq(design, x.astype(np.float64) @ w.T + b, rcond=None)[0].T
    np.testing.assert_allclose(found.weight, best[:, :-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias, best[:, -1], rtol=1e-3, atol=1e-3)


def test_neurons_that_others_make_up_for_cost_nothing() -> None:
    """32 of 64 neurons are linear combinations, with a constant, of the others, in any places."""
    random = np.random.default_rng(9)
    basis = inputs(10, 500, 32)
    copies = basis @ weights(11, 32, 32) / 6 + random.standard_normal(32)
    x = np.concatenate([basis, copies], axis=1).astype(np.float32)[:, random.permutation(64)]
    w, b = weights(12, 16, 64), weights(13, 1, 16)[0]
    removal = neuron_removal(w, *statistics(x), steps=3, damping=1e-8)
    assert removal.loss[2] < 1e-6 < 1e-2 < removal.loss[3]
    found = reconstruct(w, b, *statistics(x), removal.kept(2, 64), ridge=1e-10)
    assert found.error < 1e-6 < 0.1 < found.removal_error


def test_one_of_two_equal_neurons_stays() -> None:
    basis = inputs(14, 300, 16)
    x = np.concatenate([basis, basis], axis=1)
    w = weights(15, 8, 32)
    removal = neuron_removal(w, *statistics(x), steps=1, damping=1e-6)
    assert sorted(removal.kept(1, 32) % 16) == list(range(16))


def test_neurons_that_never_change_cost_nothing() -> None:
    x, w = inputs(16, 200, 48), weights(17, 8, 48)
    x[:, 5:21] = np.arange(16, dtype=np.float32)
    removal = neuron_removal(w, *statistics(x), steps=1, damping=1e-6)
    np.testing.assert_array_equal(np.sort(removal.columns[0]), np.arange(5, 21))
    found = reconstruct(w, np.zeros(8, np.float32), *statistics(x), removal.kept(1, 48))
    assert found.error < 1e-9 < found.removal_error


def test_losses_are_those_of_the_best_fit() -> None:
    """And so they never fall; each neuron is the cheapest at its time, by brute force."""
    x, w = inputs(18, 400, 64), weights(19, 12, 64)
    g, mean, count = statistics(x)
    removal = neuron_removal(w, g, mean, count, steps=3, damping=1e-9)
    centred = np.linalg.qr(x.astype(np.float64) - mean, mode="r")  # 64 rows with the same sums of squares
    outputs = centred @ w.T

    def loss(kept: np.ndarray) -> float:
        return share(x, w, centred[:, kept] @ np.linalg.lstsq(centred[:, kept], outputs, rcond=None)[0] - outputs)

    for steps in range(4):
        assert removal.loss[steps] == pytest.approx(loss(removal.kept(steps, 64)), rel=1e-3, abs=1e-9)
    left = list(range(64))
    for k in removal.columns.reshape(-1)[:20]:
        costs = [loss(np.array([other for other in left if other != one])) for one in left]
        assert costs[left.index(int(k))] <= min(costs) * 1.0001
        left.remove(int(k))


def test_heads() -> None:
    x, w = inputs(20, 400, 24), weights(21, 12, 24)
    x[:, 8:16] = x[:, :8] @ weights(22, 8, 8) / 3  # the second of three heads follows from the first
    removal = head_removal(w, *statistics(x), head_width=8, steps=2, damping=1e-9)
    assert removal.columns.shape == (2, 8)
    np.testing.assert_array_equal(removal.kept(1, 24)[-8:], np.arange(16, 24))
    assert removal.loss[0] == 0.0 and removal.loss[1] < 1e-6 < removal.loss[2]
    wide = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    outputs, kept = wide @ w.T, removal.kept(2, 24)
    best = wide[:, kept] @ np.linalg.lstsq(wide[:, kept], outputs, rcond=None)[0]
    assert removal.loss[2] == pytest.approx(share(x, w, best - outputs), rel=1e-3)


def test_what_cannot_be_removed() -> None:
    x, w = inputs(23, 50, 40), weights(24, 4, 40)
    assert len(neuron_removal(w, *statistics(x), steps=2).kept(2, 40)) == 8
    with pytest.raises(OptionError, match="steps: expected 0 to 2 of 16 columns each, found 3"):
        neuron_removal(w, *statistics(x), steps=3)
    with pytest.raises(OptionError, match="steps: expected 0 to 4 of 8 columns each, found 5"):
        head_removal(w, *statistics(x), head_width=8, steps=5)
    with pytest.raises(OptionError, match="head_width: expected a divisor of 40, found 7"):
        head_removal(w, *statistics(x), head_width=7, steps=1)
    with pytest.raises(OptionError, match="steps: expected 0 to 1, found 2"):
        neuron_removal(w, *statistics(x), steps=1).kept(2, 40)
